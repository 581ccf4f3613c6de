"""The plugin: registers the device before torch is imported, and stays to the end.

The library is that of the environment's PRETENDED_DEVICE, or compiled.
"""

import ctypes
import os
import sys
import tempfile
from contextlib import nullcontext

from .compiling import TORCH, compiled


def _register():
    """Load torch's libraries, and the device before Python's half of torch asks for one."""
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(TORCH / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    with tempfile.TemporaryDirectory() as folder:
        library = os.environ.get("PRETENDED_DEVICE") or compiled(folder)
        if not ctypes.CDLL(str(library)).register_guard():
            raise RuntimeError("This torch has a CUDA device guard: there is nothing to pretend.")


_register()

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map  # noqa: E402

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
waits = []  # operations for which the program waited for the device, with their places


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device; `numbers` is the tensor of the CPU behind it."""

    @staticmethod
    def __new__(cls, numbers):
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=CUDA,
        )
        self.numbers = numbers
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    # What torch does without an operation.

    def __repr__(self):
        return f"OnDevice({self.numbers})"

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy: Tensor.cpu() first")

    numpy = __array__

    def tolist(self):
        return self.detach().cpu().tolist()

    def untyped_storage(self):
        return self.numbers.untyped_storage()

    def data_ptr(self):
        return self.numbers.data_ptr()

    def new_tensor(self, data, dtype=None):
        return torch.tensor(data, dtype=dtype or self.dtype, device=CUDA)

    def __deepcopy__(self, memo):
        return memo.setdefault(id(self), _rebuilt(*self._parts()))

    def __reduce_ex__(self, protocol):
        numbers, *rest = self._parts()
        return _rebuilt_from_array, (numbers.numpy(), *rest)

    def _parts(self):
        return self.numbers.detach().clone(), getattr(self, "_is_param", False), self.requires_grad


def _rebuilt(numbers, is_parameter, wants_gradient):
    tensor = OnDevice(numbers) if torch.cuda.is_available() else numbers
    return torch.nn.Parameter(tensor, wants_gradient) if is_parameter else tensor


def _rebuilt_from_array(array, *rest):
    return _rebuilt(torch.from_numpy(array), *rest)


class Device(TorchDispatchMode):
    """Operations that have no tensor of the device yet, such as those that make one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    """Do an operation on the CPU; say where its result is, and refuse it as a device would."""
    name = func._schema.name
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    here = [each for each in tensors if isinstance(each, OnDevice)]
    wanted = kwargs.get("device")
    _refuse_two_devices(name, args, tensors, here)
    _note_waiting(name, args, tensors, here, kwargs)
    if name == "aten::_pin_memory":
        return args[0].clone()
    if wanted is not None:
        kwargs = kwargs | {"device": CPU}
    if kwargs.get("pin_memory"):
        kwargs = kwargs | {"pin_memory": False}
    stays = torch.device(wanted).type == "cuda" if wanted is not None else bool(here)
    try:
        found = func(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))
    except RuntimeError as error:
        if stays and "can't allocate memory" in str(error):
            raise torch.OutOfMemoryError("CUDA out of memory.") from error
        raise
    changed = [
        given
        for given, argument in zip(args, func._schema.arguments, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if changed and isinstance(found, torch.Tensor):
        return changed[0]
    return tree_map(_placed, found) if stays else found


def _numbers(value):
    return value.numbers if isinstance(value, OnDevice) else value


def _placed(value):
    return OnDevice(value) if isinstance(value, torch.Tensor) else value


def _refuse_two_devices(name, args, tensors, here):
    """Numbers without dimensions and indices may be on the CPU, all else beside the device not."""
    others = [each for each in tensors if not isinstance(each, OnDevice) and each.dim() > 0]
    is_copy = name in ("aten::_to_copy", "aten::copy_")
    is_indexing = name.startswith("aten::index") and isinstance(args[1], (list, tuple))
    if here and others and not is_copy and not (is_indexing and isinstance(args[0], OnDevice)):
        shapes = [tuple(each.shape) for each in tensors]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {name} of "
            f"shapes {shapes}"
        )


WAITING = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::_unique2",
    "aten::masked_select",
    "aten::bincount",
)


def _note_waiting(name, args, tensors, here, kwargs):
    """Where the program needs to know a result before it can go on."""
    if name == "aten::_to_copy":
        wanted = kwargs.get("device")
        is_moved = wanted is not None and (torch.device(wanted).type == "cuda") != bool(here)
        is_waiting = is_moved and not kwargs.get("non_blocking")
    elif name == "aten::copy_":
        is_waiting = len(here) == 1 and not (len(args) > 2 and args[2])
    elif name.startswith("aten::index") and here:
        # A mask's places are looked for, and indices of the CPU are brought.
        is_waiting = len(here) < len(tensors) or any(x.dtype == torch.bool for x in tensors[1:])
    else:
        is_waiting = bool(here) and name in WAITING
    if is_waiting:
        waits.append(f"{name} in {_place()}")


def _place():
    """File and line of the package that led here; "elsewhere" in torch's own threads."""
    frame = sys._getframe()
    while frame is not None and f"{os.sep}sklearn_cpc{os.sep}" not in frame.f_code.co_filename:
        frame = frame.f_back
    return "elsewhere" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _lifted(make):
    """torch.tensor fills a tensor of a device without an operation."""

    def on_the_cpu_first(data, *args, device=None, **kwargs):
        if isinstance(data, OnDevice):
            wanted = {"device": device, **kwargs}
            return data.to(**{name: each for name, each in wanted.items() if each is not None})
        made = make(data, *args, **kwargs)
        return made if device is None else made.to(device)

    return on_the_cpu_first


def _load(load):
    """Storages of a file need no moving: tensors of the device are rebuilt on it."""

    def load_where_it_was(file, map_location=None, **kwargs):
        location = None if "cuda" in str(map_location) else map_location
        return load(file, map_location=location, **kwargs)

    return load_where_it_was


def _pretend():
    generator = torch.default_generator
    answers = {
        "_lazy_init": None,
        "current_device": 0,
        "device_count": 1,
        "empty_cache": None,
        "get_device_capability": (9, 0),
        "get_device_name": "a device that is not there",
        "is_available": True,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "max_memory_allocated": 0,
        "mem_get_info": (2**33, 2**34),
        "memory_allocated": 0,
        "memory_reserved": 0,
        "reset_peak_memory_stats": None,
        "set_device": None,
        "synchronize": None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    torch.cuda.default_generators = (generator,)
    torch.cuda.get_rng_state = lambda device=None: generator.get_state()
    torch.cuda.set_rng_state = lambda state, device=None: generator.set_state(state)
    torch.cuda.manual_seed = torch.cuda.manual_seed_all = generator.manual_seed
    torch.tensor, torch.as_tensor = _lifted(torch.tensor), _lifted(torch.as_tensor)
    torch.load = _load(torch.load)
    torch.backends.cudnn.is_acceptable = lambda tensor: False
    # A wrapper's versions are counted, which inference mode forbids.
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else nullcontext()
    # module.to(device) must take the new tensors as they are, not their memory alone.
    torch.__future__.set_swap_module_params_on_conversion(True)
    Device().__enter__()


_pretend()
