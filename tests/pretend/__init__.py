"""A CUDA device that is not there, on which every tensor knows that it is on it.

    python -m pytest -p tests.pretend.plugin tests/estimators/test_gpu.py

With the plugin torch says that it has a CUDA device. A tensor of that device has its numbers in
the CPU's memory and gets its results there, but says `device="cuda:0"`, cannot be turned into an
array, and is refused beside a tensor of the CPU as a real device refuses it. So a line that mixes
devices, leaves a constant on the CPU or forgets to bring a result back fails on a machine without
a GPU. And it counts how often the program waits for the device. It says nothing about speed,
memory, or kernels. `device.cpp` registers what torch asks the device for; it is compiled against
torch's own headers, which takes some seconds.
"""
