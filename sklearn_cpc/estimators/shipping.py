"""What leaves the process: a file of the model, a torch module, ONNX, a model card."""

from sklearn.utils.validation import check_is_fitted

from .guards import own_torch

__all__ = ["Shipping"]


class Shipping:
    """Mixin of `CPCTransformer`: `save` and `load`, and the fitted model for other programs."""

    def save(self, path):
        """Write the fitted estimator to a file without pickles.

        Parameters
        ----------
        path : str or Path
            One safetensors file: weights and the optimiser's state, and settings as JSON in its
            header. It appears whole or not at all.

        Raises
        ------
        ImportError
            If safetensors is not installed.
        TypeError
            If a parameter cannot be written as JSON, such as `callbacks`. An encoder or context
            network of your own is written with its weights and its name alone.
        """
        from .persistence import save

        check_is_fitted(self)
        save(self, path)

    @classmethod
    def load(cls, path, device="auto", *, encoder=None, context=None):
        """Read what `save` wrote; no code in the file is run.

        Parameters
        ----------
        path : str or Path
        device : str, default="auto"
            Where the model is put.
        encoder, context : Module, callable or None, default=None
            Where they were your own: the same again. Their weights come from the file.

        Returns
        -------
        estimator : CPCTransformer
            Fitted; `partial_fit` continues as if it had not been saved.

        Raises
        ------
        ValueError
            If the file is of another kind, is broken, or needs the `encoder` or `context`.
        """
        from .persistence import load

        with own_torch():
            return load(cls, path, device, {"encoder": encoder, "context": context})

    def feature_module(self, image_size=None):
        """The fitted model as a plain torch module: images as in `fit` -> pooled features.

        Parameters
        ----------
        image_size : (int, int) or None, default=None
            Height and width of the images. None: those of `fit`.

        Returns
        -------
        module : torch.nn.Module
            On the CPU, in eval mode and without gradients; it takes tensors of the dtype and layout
            of the training images and gives what `transform` gives in float32.
            `torch.export.export` takes it.
        """
        from .export import feature_module

        with own_torch():
            return feature_module(self, image_size)

    def to_onnx(self, path, *, image_size=None, dtype=None):
        """Write the fitted model as an ONNX file: "images" as in `fit` -> pooled "features".

        Parameters
        ----------
        path : str or Path
            It appears whole or not at all.
        image_size : (int, int) or None, default=None
            As in `feature_module`.
        dtype : str or dtype or None, default=None
            Of the images. None: that of the training images.

        Raises
        ------
        ImportError
            If onnx or onnxscript is not installed.
        ValueError
            If the model, such as an encoder of your own, has what the exporter does not know.

        Notes
        -----
        The number of images is free. Matrix products are in float32, whatever `precision`.
        """
        from .export import to_onnx

        with own_torch():
            to_onnx(self, path, image_size, dtype)

    def model_card(self, path=None):
        """What the model is, as a page of Markdown: data, settings, training, versions, use.

        Parameters
        ----------
        path : str, Path or None, default=None
            Where it is written, too; it appears whole or not at all.

        Returns
        -------
        card : str
        """
        from .card import model_card

        return model_card(self, path)
