"""How far a study is."""

from contextlib import contextmanager

from ._optional import import_optional


class _NoBar:
    """In the place of a bar, for those who want none."""

    def update(self, n):
        pass

    def set_description(self, text):
        pass

    def write(self, text):
        print(text, flush=True)


@contextmanager
def progress_bar(shown, total, caller):
    """A tqdm bar, or what looks like one and draws nothing."""
    if not shown:
        yield _NoBar()
        return
    tqdm = import_optional("tqdm.auto", caller, "progress").tqdm
    with tqdm(total=total, unit="fit") as bar:
        yield bar
