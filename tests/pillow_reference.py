"""The patch augmentation done patch by patch with pillow, 8 bits a value, and by plain loops.

A patch is an array (channels, height, width) of uint8; results are the same in [0, 1]. Three
channels are one RGB image, another number are as many images in grey.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy.ndimage import map_coordinates

GREY = 128


def pictures(patch):
    if len(patch) == 3:
        return [Image.fromarray(np.ascontiguousarray(patch.transpose(1, 2, 0)), "RGB")]
    return [Image.fromarray(np.ascontiguousarray(channel), "L") for channel in patch]


def each(patch, change):
    """A pillow function of an image, on all channels."""
    done = [np.asarray(change(picture)) for picture in pictures(patch)]
    done = done[0].transpose(2, 0, 1) if len(patch) == 3 else np.stack(done)
    return done / 255


def affine(patch, x_in, y_in):
    """Read (x, y) of the result at these linear functions of places from the middle."""
    height, width = patch.shape[1:]
    coefficients = []
    for (a, b, c), side in ((x_in, width), (y_in, height)):
        coefficients += [a, b, c + side / 2 - a * width / 2 - b * height / 2]

    def change(picture):
        fill = GREY if picture.mode == "L" else (GREY,) * 3
        return picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            coefficients,
            resample=Image.Resampling.BILINEAR,
            fillcolor=fill,
        )

    return each(patch, change)


def shear_x(patch, rate):
    return affine(patch, (1, rate, 0), (0, 1, 0))


def shear_y(patch, rate):
    return affine(patch, (1, 0, 0), (rate, 1, 0))


def translate_x(patch, share):
    return affine(patch, (1, 0, share * patch.shape[2]), (0, 1, 0))


def translate_y(patch, share):
    return affine(patch, (1, 0, 0), (0, 1, share * patch.shape[1]))


def rotate(patch, degrees):
    def change(picture):
        fill = GREY if picture.mode == "L" else (GREY,) * 3
        return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=fill)

    return each(patch, change)


def autocontrast(patch, _):
    return each(patch, ImageOps.autocontrast)


def invert(patch, _):
    return each(patch, ImageOps.invert)


def equalize(patch, _):
    """Of the patch with its pixels repeated: pillow counts in whole pixels per step."""
    times = math.ceil(550 / math.sqrt(patch[0].size))
    large = patch.repeat(times, 1).repeat(times, 2)
    return each(large, ImageOps.equalize)[:, ::times, ::times]


def solarize(patch, threshold):
    return each(patch, lambda picture: ImageOps.solarize(picture, round(threshold)))


def posterize(patch, bits):
    return each(patch, lambda picture: ImageOps.posterize(picture, round(bits)))


def brightness(patch, factor):
    return each(patch, lambda picture: ImageEnhance.Brightness(picture).enhance(factor))


def sharpness(patch, factor):
    return each(patch, lambda picture: ImageEnhance.Sharpness(picture).enhance(factor))


def contrast(patch, factor):
    if len(patch) in (1, 3):
        return each(patch, lambda picture: ImageEnhance.Contrast(picture).enhance(factor))
    return np.clip(patch.mean() + factor * (patch - patch.mean()), 0, 255) / 255


def saturation(patch, factor):
    if len(patch) in (1, 3):
        return each(patch, lambda picture: ImageEnhance.Color(picture).enhance(factor))
    grey = patch.mean(0)
    return np.clip(grey + factor * (patch - grey), 0, 255) / 255


def cutout(patch, square):
    share, *middle = square
    size = round(share * min(patch.shape[1:]))

    def change(picture):
        left = math.floor(middle[1] * picture.width) - size // 2
        top = math.floor(middle[0] * picture.height) - size // 2
        picture = picture.copy()
        if size:
            box = (left, top, left + size - 1, top + size - 1)
            fill = GREY if picture.mode == "L" else (GREY,) * 3
            ImageDraw.Draw(picture).rectangle(box, fill=fill)
        return picture

    return each(patch, change)


def blend(patch, other, share):
    pairs = zip(pictures(patch), pictures(other), strict=True)
    done = [np.asarray(Image.blend(a, b, share)) for a, b in pairs]
    return (done[0].transpose(2, 0, 1) if len(patch) == 3 else np.stack(done)) / 255


def hue(patch, turns):
    """Turn (Cb, Cr) of pillow's YCbCr."""
    y, cb, cr = np.asarray(pictures(patch)[0].convert("YCbCr")).transpose(2, 0, 1).astype(float)
    turned = (cb - 128 + 1j * (cr - 128)) * np.exp(2j * np.pi * turns)
    pixels = np.stack([y, turned.real + 128, turned.imag + 128], 2)
    pixels = np.clip(pixels.round(), 0, 255).astype(np.uint8)
    picture = Image.frombytes("YCbCr", pixels.shape[1::-1], pixels.tobytes())
    return np.asarray(picture.convert("RGB")).transpose(2, 0, 1) / 255


def colour(patch, order, added, saturated, turns, contrasted):
    """Four changes in their order, unrounded as pillow cannot, clipped at the end."""
    x = patch / 255
    for kind in order:
        grey = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2] if len(x) == 3 else x.mean(0)
        if kind == 0:
            x = x + added
        elif kind == 1:
            x = grey + (1 + saturated) * (x - grey)
        elif kind == 2 and len(x) == 3:
            # JFIF's YCbCr and back.
            chroma = (x[2] - grey) / 1.772 + 1j * (x[0] - grey) / 1.402
            chroma = chroma * np.exp(2j * np.pi * turns)
            cb, cr = chroma.real, chroma.imag
            green = grey - 0.344136 * cb - 0.714136 * cr
            x = np.stack([grey + 1.402 * cr, green, grey + 1.772 * cb])
        elif kind == 3:
            x = grey.mean() + (1 + contrasted) * (x - grey.mean())
    return np.clip(x, 0, 1)


def histogram(patch, knots):
    """Each channel through a table of 256 values, as Image.point does."""
    places = np.linspace(0, 1, knots.shape[1])
    done = []
    for channel, curve in zip(patch, knots, strict=True):
        table = [round(255 * np.interp(value / 255, places, curve)) for value in range(256)]
        done.append(np.asarray(Image.fromarray(np.ascontiguousarray(channel), "L").point(table)))
    return np.stack(done) / 255


def deform(patch, shear, displacement):
    """Pixel (y, x) of the result is read where shear and displacement point, by scipy."""
    height, width = patch.shape[1:]
    y, x = np.mgrid[:height, :width].astype(float)
    from_left, from_top = x + 0.5 - width / 2, y + 0.5 - height / 2
    x = x + shear[0] * from_top + displacement[0] * width
    y = y + shear[1] * from_left + displacement[1] * height
    pixels = patch / 255
    return np.stack(
        [map_coordinates(channel, [y, x], order=1, mode="nearest") for channel in pixels]
    )


def smoothed(noise, height, width, sigma, size):
    """Sum of the Gaussians of all knots at each pixel, brought to standard deviation `size`."""
    _, rows, cols = noise.shape
    out = np.zeros((2, height, width))
    for y in range(height):
        for x in range(width):
            down = [(y + 0.5) / height - (j + 0.5) / rows for j in range(rows)]
            across = [(x + 0.5) / width - (i + 0.5) / cols for i in range(cols)]
            weights = np.exp(-(np.square(down)[:, None] + np.square(across)) / (2 * sigma**2))
            out[:, y, x] = size * (weights * noise).sum((1, 2)) / np.sqrt(np.square(weights).sum())
    return out


def cropped(patch, cut):
    """{(dy, dx): patch} of all windows that leave out so many rows and columns."""
    _, height, width = patch.shape
    cut_y, cut_x = (min(round(cut * side), side - 1) for side in (height, width))
    pads = [(cut // 2, cut - cut // 2) for cut in (cut_y, cut_x)]
    return {
        (dy, dx): np.pad(
            patch[:, dy : dy + height - cut_y, dx : dx + width - cut_x], [(0, 0), *pads], "edge"
        )
        for dy in range(cut_y + 1)
        for dx in range(cut_x + 1)
    }
