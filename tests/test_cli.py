"""The command line: files, messages and exit codes."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sklearn_cpc
from sklearn_cpc import CPCTransformer
from sklearn_cpc.cli import commands, main
from sklearn_cpc.cli.labels import read_labels
from sklearn_cpc.cli.outputs import check_output, features_to
from sklearn_cpc.datasets import image_folder
from sklearn_cpc.estimators.files import written_whole
from sklearn_cpc.training import decoding

from .estimators.toys import TINY, images, save_images, tiny

pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")

X = images(24)
X[12:, :, :, 0] //= 4
X.setflags(write=False)
SMALL = [f"--set={name}={value}" for name, value in TINY.items() if name not in ("random_state",)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """12 images of each of two classes."""
    folder = tmp_path_factory.mktemp("folder")
    for name, part in (("blue", X[12:]), ("red", X[:12])):
        (folder / name).mkdir()
        save_images(part, folder / name)
    return folder


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    assert main(["fit", str(folder), "-o", str(path), *SMALL]) == 0
    return path


@pytest.fixture
def failing(capsys):
    """Run a command that fails; its one line."""

    def run(*arguments):
        assert main(list(map(str, arguments))) == 1
        lines = capsys.readouterr().err.splitlines()
        assert sum(line.startswith("sklearn-cpc: error: ") for line in lines) == 1
        assert lines[-1].startswith("sklearn-cpc: error: ")
        return lines[-1]

    return run


@pytest.fixture
def refused(capsys):
    """Run a command that is typed wrongly; what is said."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, arguments)))
        assert caught.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return run


def paths_of(folder):
    return image_folder(folder).paths


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_fit_writes_the_model_of_the_estimator_and_tells_on_stderr(folder, tmp_path, capsys):
    output = tmp_path / "model.safetensors"
    assert main(["fit", str(folder), "-o", str(output), "--epochs=2", "--seed=3", *SMALL[:-2]]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "24 images in" in printed.err
    assert "epoch 2/2  loss" in printed.err
    assert "2 epochs on images of 8x8 pixels and 3 channels, loss" in printed.err
    found = CPCTransformer.load(output)
    assert (
        found.get_params()
        == tiny(max_epochs=2, batch_size=64, random_state=3, verbose=1).get_params()
    )
    expected = tiny(max_epochs=2, batch_size=64, random_state=3).fit(paths_of(folder))
    np.testing.assert_array_equal(found.transform(X), expected.transform(X))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_recipes_options_and_set_overrule_one_another(folder, tmp_path):
    output = tmp_path / "model.safetensors"
    options = [
        "--recipe=small-images",
        "--set=max_epochs=0",
        "--resize=6",
        "--workers=1",
        "--device=cpu",
    ]
    options += ["--set=n_components=8", "--set", "patch_size=(2, 3)", "--set=pooling=quadrants"]
    assert main(["fit", str(folder), "-o", str(output), *options]) == 0
    found = CPCTransformer.load(output).get_params()
    changed = {
        "max_epochs": 0,
        "resize": 6,
        "n_workers": 1,
        "device": "cpu",
        "n_components": 8,
        "patch_size": (2, 3),
        "pooling": "quadrants",
        "random_state": 0,
        "verbose": 1,
    }
    expected = CPCTransformer(**sklearn_cpc.recipe("small-images") | changed).get_params()
    assert found == expected


@pytest.mark.parametrize("end", ["npy", "csv", "parquet"])
def test_transform_writes_features_and_paths(end, folder, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "IMAGES_AT_ONCE", 7)
    output = tmp_path / f"features.{end}"
    if end == "parquet":
        pytest.importorskip("pyarrow")
    assert main(["transform", str(model), str(folder), "-o", str(output)]) == 0
    assert "24/24 images" in capsys.readouterr().err
    expected = CPCTransformer.load(model).transform(paths_of(folder))
    names = [Path(path).relative_to(folder).as_posix() for path in paths_of(folder)]
    assert names[0] == "blue/000.png"
    columns = [f"cpctransformer{i}" for i in range(8)]
    if end == "npy":
        found = np.load(output)
        assert rows_of(tmp_path / "features.paths.csv") == [["path"], *([name] for name in names)]
    elif end == "csv":
        rows = rows_of(output)
        assert rows[0] == ["path", *columns]
        assert [row[0] for row in rows[1:]] == names
        found = np.array([row[1:] for row in rows[1:]], dtype=np.float32)
    else:
        frame = pytest.importorskip("pandas").read_parquet(output)
        assert list(frame.columns) == ["path", *columns]
        assert list(frame["path"]) == names
        found = frame[columns].to_numpy()
    assert found.dtype == np.float32
    # Blocks of other sizes round otherwise.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_transform_checks_every_file_once(folder, model, tmp_path, monkeypatch):
    seen, examine = [], decoding.examine
    monkeypatch.setattr(decoding, "examine", lambda path: seen.append(path) or examine(path))
    monkeypatch.setattr(commands, "IMAGES_AT_ONCE", 7)
    assert main(["transform", str(model), str(folder), "-o", str(tmp_path / "a.npy")]) == 0
    assert sorted(seen) == sorted(paths_of(folder))


def test_transform_takes_settings_of_its_own(folder, model, tmp_path):
    output = tmp_path / "features.npy"
    assert (
        main(["transform", str(model), str(folder), "-o", str(output), "--set=pooling=mean"]) == 0
    )
    expected = CPCTransformer.load(model).set_params(pooling="mean").transform(paths_of(folder))
    np.testing.assert_allclose(np.load(output), expected, rtol=1e-5, atol=1e-6)


def with_broken(folder, tmp_path):
    """The folder again, with a file that is no image."""
    for path in paths_of(folder):
        copy = tmp_path / "images" / Path(path).relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(Path(path).read_bytes())
    (tmp_path / "images" / "blue" / "005.png").write_bytes(b"no image")
    return tmp_path / "images"


@pytest.mark.filterwarnings("default::RuntimeWarning")
def test_broken_files_end_a_command_or_are_skipped(
    folder, model, tmp_path, failing, capsys, monkeypatch
):
    monkeypatch.setattr(commands, "IMAGES_AT_ONCE", 4)  # the broken one is in the second block
    broken = with_broken(folder, tmp_path)
    output = tmp_path / "features.npy"
    message = "error: 1 of 24 images cannot be read. The first: "
    assert message in failing("transform", model, broken, "-o", output)
    error = failing("fit", broken, "-o", tmp_path / "m", *SMALL)
    assert message in error
    assert "Or pass --skip-broken." in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
    assert main(["transform", str(model), str(broken), "-o", str(output), "--skip-broken"]) == 0
    assert "24 images; 1 cannot be read and have NaN" in capsys.readouterr().err
    assert np.flatnonzero(np.isnan(np.load(output)).any(axis=1)).tolist() == [5]
    fit = ["fit", str(broken), "-o", str(tmp_path / "m"), "--skip-broken", *SMALL]
    assert main(fit) == 0
    assert "sklearn-cpc: warning: 1 of 24 images cannot be read and are" in capsys.readouterr().err
    # The next run says for itself what it does about them.
    assert message in failing("transform", tmp_path / "m", broken, "-o", output)


@pytest.mark.parametrize("labels", ["folders", "file"])
def test_curve_prints_a_table_and_writes_it(labels, folder, model, tmp_path, capsys):
    output = tmp_path / "curve.csv"
    options = ["-o", str(output), "--cv=2", "--repeats=2", "--fractions", "0.5", "1"]
    if labels == "file":
        lines = ["path,label"]
        lines += [f"{p.parent.name}/{p.name},{p.parent.name}" for p in folder.glob("*/*.png")]
        lines += [f"{lines.pop().partition(',')[0]},"]  # one without a label
        (tmp_path / "labels.csv").write_text("\n".join(lines))
        options += ["--labels", str(tmp_path / "labels.csv")]
    assert main(["curve", str(model), str(folder), *options]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("| labels ")
    assert "\n| CPC " in printed.out
    assert "\n| untrained encoder | " in printed.out
    assert "Fewer labels for the best accuracy of the untrained encoder: " in printed.out
    rows = rows_of(output)
    assert rows[0] == ["name", "fraction", "n_labels", "mean", "std", "n_scores"]
    assert [(row[0], row[1], row[5]) for row in rows[1:]] == [
        (name, fraction, "4")
        for name in ("CPC", "untrained encoder")
        for fraction in ("0.5", "1.0")
    ]
    assert all(0.5 < float(row[3]) <= 1 for row in rows[1:])
    pytest.importorskip("matplotlib")
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_without_matplotlib_has_no_picture(folder, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    options = ["-o", str(tmp_path / "curve.csv"), "--cv=2", "--repeats=1", "--fractions", "1"]
    assert main(["curve", str(model), str(folder), *options]) == 0
    assert "no picture: matplotlib is not installed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["curve.csv"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("None", None),
        ("down,up", ("down", "up")),
        ("8,6", (8, 6)),
        ("('left',)", ("left",)),
        ("quadrants", "quadrants"),
        ("cpc-v2", "cpc-v2"),
        ("1e-3", 1e-3),
        ("/data/a,b c", "/data/a,b c"),
    ],
)
def test_values_of_settings(text, value):
    assert commands._value(text) == value


def test_numbers_that_are_none_and_no_epochs(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fit", str(folder), "-o", str(tmp_path / "m"), "--epochs", "x"])
    assert "argument --epochs: 'x' must be a whole number" in capsys.readouterr().err
    path = tmp_path / "m.safetensors"
    small = [f"--set={name}={value!r}" for name, value in TINY.items() if name != "max_epochs"]
    assert main(["fit", str(folder), "-o", str(path), "--epochs", "0", "--resize=8", *small]) == 0
    assert CPCTransformer.load(path).history_ == []


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (["--fractions", "0.5", "5000"], "5000"),
        (["--fractions", "-1"], "-1"),
        (["--cv", "400"], "400"),
    ],
)
def test_a_wrong_curve_is_refused_before_images_are_embedded(
    wrong, text, folder, model, tmp_path, failing, monkeypatch
):
    monkeypatch.setattr(CPCTransformer, "transform", lambda *_: pytest.fail("embedded"))
    assert text in failing("curve", model, folder, "-o", tmp_path / "curve.csv", *wrong)
    assert not list(tmp_path.iterdir())


def test_curves_need_labels_that_belong_to_images(folder, model, tmp_path, failing):
    labels = tmp_path / "labels.csv"
    curve = ["curve", model, folder, "-o", tmp_path / "curve.csv", "--labels", labels]
    labels.write_text("path,label\nblue/000.png,a\nnone.png,b\n")
    assert "has none.png, which is no image of" in failing(*curve)
    labels.write_text("path,label\nblue/000.png,\n")
    assert "has no label; write some." in failing(*curve)
    labels.write_text("file;label\n")
    assert "has the columns ['file;label']; the first line must name" in failing(*curve)
    labels.write_text("path,label\na.png,a\na.png,b\n")
    assert "line 3: a.png has the labels 'a' and 'b'; keep one." in failing(*curve)
    labels.write_text("")
    with pytest.raises(ValueError, match="has the columns None"):
        read_labels(labels)
    flat = folder / "blue"
    assert "has no folders for classes; pass --labels" in failing(
        "curve", model, flat, "-o", tmp_path / "curve.csv"
    )


def test_failures_are_one_line(folder, model, tmp_path, failing):
    output = tmp_path / "a.npy"
    assert "none' is no folder; pass one" in failing("fit", tmp_path / "none", "-o", output)
    assert "holds no image" in failing("fit", tmp_path, "-o", output)
    assert "none is no file; pass a model" in failing("transform", "none", folder, "-o", output)
    (tmp_path / "text").write_text("text")
    message = failing("transform", tmp_path / "text", folder, "-o", output)
    assert "text is not a file that CPCTransformer.save wrote" in message
    assert "patch_size=99 must be at most" in failing(
        "fit", folder, "-o", output, "--set=patch_size=99"
    )
    assert not output.exists()


ROW = "blue/000.png,a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"path,label\n{ROW}\n".encode("utf-16"), "is not in UTF-8 (invalid start byte at byte 0)"),
        (b'path,label\n"blue/000.png,a\nblue/001.png,b\n', "is no whole CSV file (unexpected end"),
        (f"path,label\n{ROW}\nblue/001.png\n".encode(), "line 3, has 1 fields and the first"),
        (f"path,label\n{ROW},b\n".encode(), "put fields with commas into quotation marks"),
        (f"path,label,label\n{ROW},b\n".encode(), "and 'label', each once, with a comma between"),
        (b"path,label\nblue/000.png,NaN\n", "line 2: blue/000.png has the label 'NaN', a missing"),
    ],
)
def test_labels_that_would_be_read_wrongly_are_refused(content, message, tmp_path):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError, match="^--labels .*" + re.escape(message)):
        read_labels(tmp_path / "labels.csv")


def test_labels_that_cannot_be_read_name_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"--labels .*none.csv cannot be read \(No such file"):
        read_labels(tmp_path / "none.csv")


def test_white_space_byte_order_and_other_columns_are_no_part_of_labels(tmp_path):
    text = "\ufefflabel , note,path\r\na ,1,x y.png\r\n  a,,z.png\r\n\r\n ,1,none.png\r\n"
    (tmp_path / "labels.csv").write_text(text, newline="")
    assert read_labels(tmp_path / "labels.csv") == {"x y.png": "a", "z.png": "a"}


def test_no_output_takes_the_place_of_an_image(folder, model, tmp_path, refused, monkeypatch):
    image = folder / "blue" / "000.png"
    assert "has the name of an image; pass one" in refused("fit", folder, "-o", image, *SMALL)
    curve = ["curve", model, folder, "-o"]
    assert "has the name of an image" in refused(*curve, tmp_path / "curve.PNG")
    inside = folder / "blue" / "curve.csv"
    assert "would be one of the images of" in refused(*curve, inside)
    monkeypatch.chdir(folder)
    assert "curve.png would be one of the images of ." in refused("curve", model, ".")
    assert len(paths_of(folder)) == 24


def test_labels_are_not_replaced_by_the_table(folder, model, tmp_path, refused, monkeypatch):
    (tmp_path / "curve.csv").write_text("path,label")
    monkeypatch.chdir(tmp_path)
    labels = ["--labels", tmp_path / "curve.csv"]
    assert "is the file of --labels; pass another" in refused("curve", model, folder, *labels)
    assert (tmp_path / "curve.csv").read_text() == "path,label"


def test_what_stands_beside_an_output_is_looked_at_before_the_work(
    folder, model, tmp_path, refused
):
    (tmp_path / "curve.png").mkdir()
    (tmp_path / "a.paths.csv").mkdir()
    error = refused("curve", model, folder, "-o", tmp_path / "curve.csv")
    assert "curve.png is a folder; pass another name" in error
    error = refused("transform", model, folder, "-o", tmp_path / "a.npy")
    assert "a.paths.csv is a folder; pass the name of a file" in error
    assert not (tmp_path / "a.npy").exists()


@pytest.mark.parametrize("end", ["npy", "csv", "parquet"])
def test_names_that_are_no_text_are_refused_before_the_work(
    end, folder, model, tmp_path, monkeypatch, failing
):
    strange = str(folder / os.fsdecode(b"caf\xe9.png"))
    found = image_folder(folder)
    found = found._replace(paths=np.append(found.paths, strange))
    monkeypatch.setattr(commands, "image_folder", lambda path: found)
    monkeypatch.setattr(commands, "opened", lambda *args: pytest.fail("too late"))
    error = failing("transform", model, folder, "-o", tmp_path / f"a.{end}")
    assert r"The name of 'caf\udce9.png' is not in UTF-8, and no file of features" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["transform", "curve"])
def test_what_only_a_training_reads_is_refused_after_it(command, folder, model, tmp_path, refused):
    options = [command, model, folder, "-o", tmp_path / "a.csv"]
    error = refused(*options, "--set=patch_size=6")
    assert "--set patch_size: " in error
    assert "has it from its training; fit anew, or set one of broken_images, device, " in error


def test_the_device_may_be_set(folder, model, tmp_path, failing):
    error = failing("transform", model, folder, "-o", tmp_path / "a.csv", "--set=device=gpu")
    assert "device='gpu' is unknown" in error


def test_a_traceback_is_given_to_who_asks_for_it(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["fit", str(tmp_path / "none"), "-o", str(tmp_path / "a"), "--traceback"])


def test_wrong_usage(folder, model, tmp_path, refused):
    fit = ["fit", folder, "-o", tmp_path / "a"]
    assert "the following arguments are required: COMMAND" in refused()
    assert "required: -o/--output" in refused("fit", folder)
    assert "argument --epochs: 0 must be at least 1" in refused(*fit, "--epochs=-0")
    assert "invalid choice: 'cpc-v9'" in refused(*fit, "--recipe=cpc-v9")
    assert "--set pooling must be NAME=VALUE" in refused(*fit, "--set=pooling")
    assert "--set poling: CPCTransformer has no such parameter; did you mean pooling?" in refused(
        *fit, "--set=poling=max"
    )
    assert "no such parameter; see help(" in refused(*fit, "--set=xyzzy=1")
    assert "is a folder; pass the name of a file" in refused("fit", folder, "-o", tmp_path)
    assert "make it first" in refused("fit", folder, "-o", tmp_path / "none" / "a")
    transform = ["transform", model, folder, "-o"]
    assert "must end in one of .parquet, .npy, .csv" in refused(*transform, tmp_path / "a.xls")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *args: False)
    with pytest.raises(Exception, match=r"nothing can be written to .*; choose another"):
        check_output(tmp_path / "a")


def test_resume_is_the_parameter_checkpoint(folder, tmp_path):
    resume = ["fit", folder, "-o", tmp_path / "a", "--resume", tmp_path / "checkpoints", *SMALL]
    assert main(list(map(str, resume))) == 0
    assert list((tmp_path / "checkpoints").iterdir())


@pytest.mark.filterwarnings("default::RuntimeWarning")
def test_an_interrupted_training_is_written_and_told(folder, tmp_path, monkeypatch, failing):
    def interrupted(self, X, y=None):
        CPCTransformer_fit(self, X)
        commands.warnings.warn("Training was interrupted in epoch 1", RuntimeWarning, stacklevel=2)

    CPCTransformer_fit = CPCTransformer.fit
    monkeypatch.setattr(CPCTransformer, "fit", interrupted)
    output = tmp_path / "model.safetensors"
    message = failing("fit", folder, "-o", output, *SMALL)
    assert message.endswith(f"interrupted; {output} has what was learned by then.")
    assert CPCTransformer.load(output).n_iter_ == 1


def test_ctrl_c_before_anything_is_written(folder, tmp_path, monkeypatch, failing):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "image_folder", interrupt)
    assert failing("fit", folder, "-o", tmp_path / "a").endswith(
        "interrupted; nothing was written."
    )


@pytest.mark.parametrize("end", [".npy", ".csv", ".parquet"])
def test_a_failure_leaves_the_earlier_file(end, tmp_path):
    if end == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"a{end}"
    path.write_text("before")

    def fail():
        with features_to(path, 2, ["a"]) as write:
            write(["a.png"], np.zeros((1, 1), np.float32))
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail()
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_files_are_as_open_to_others_as_ever(tmp_path):
    (tmp_path / "plain").touch()
    with written_whole(tmp_path / "moved") as temporary:
        temporary.touch()
    assert (tmp_path / "moved").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_parquet_names_its_extra(folder, model, tmp_path, monkeypatch, failing):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = failing("transform", model, folder, "-o", tmp_path / "a.parquet")
    assert (
        'needs pyarrow, which is not installed; run: pip install "sklearn-cpc[parquet]"' in message
    )


@pytest.mark.parametrize("command", [[], ["fit"], ["transform"], ["curve"]])
def test_help_says_what_and_how(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: sklearn-cpc")
    assert "Exit codes: 0 done" in printed


def test_python_m_gives_the_exit_code_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "sklearn_cpc", "fit", str(tmp_path), "-o", str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("sklearn-cpc: error: path=")
    assert len(done.stderr.splitlines()) == 1
