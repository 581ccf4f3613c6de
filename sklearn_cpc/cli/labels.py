"""Labels in a CSV file."""

import csv

__all__ = ["read_labels"]

COLUMNS = ("path", "label")
# Of a missing number as pandas and NumPy write it, which would be a class of that name.
MISSING = {"nan", "NaN"}


def read_labels(path):
    """Labels by path, of a CSV file with the columns "path" and "label".

    White space around labels is left out, and so are rows without one.

    Raises
    ------
    ValueError
        If the file cannot be read as such, a column is missing or there twice, a path has two
        labels, or a label is a missing number.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return _labels_of(path, csv.reader(file, strict=True))
    except OSError as error:
        raise ValueError(
            f"--labels {path} cannot be read ({error.strerror}); pass a CSV file."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--labels {path} is not in UTF-8 ({error.reason} at byte {error.start}); save it in "
            "that encoding."
        ) from error
    except csv.Error as error:
        raise ValueError(
            f"--labels {path} is no whole CSV file ({error}); close quotation marks that are open."
        ) from error


def _labels_of(path, rows):
    header = next(rows, None)
    names = [name.strip() for name in header or ()]
    if any(names.count(name) != 1 for name in COLUMNS):
        raise ValueError(
            f"--labels {path} has the columns {header}; the first line must name 'path' and "
            "'label', each once, with a comma between them."
        )
    places = [names.index(name) for name in COLUMNS]
    labels = {}
    for row in filter(None, rows):
        if len(row) != len(names):
            raise ValueError(
                f"--labels {path}, line {rows.line_num}, has {len(row)} fields and the first line "
                f"{len(names)}; put fields with commas into quotation marks."
            )
        name, label = row[places[0]], row[places[1]].strip()
        if label in MISSING:
            raise ValueError(
                f"--labels {path}, line {rows.line_num}: {name} has the label {label!r}, a missing "
                "number; leave the field empty where there is no label."
            )
        if label and labels.setdefault(name, label) != label:
            raise ValueError(
                f"--labels {path}, line {rows.line_num}: {name} has the labels "
                f"{labels[name]!r} and {label!r}; keep one."
            )
    return labels
