"""Which files a walk leaves out, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from vesearch.config import ScanSettings, names_in
from vesearch.system import objects

IGNORE_FILE = ".vesearchignore"
_MOST_BYTES = 1 << 20  # of it, on an object store
# what NAS, systems and photo programs leave beside photos: small copies of them, and what was
# thrown away; docs/images.md says whose each is
BUILT_IN = (
    *("@eaDir/", "SYNOPHOTO_THUMB_*", "\\#recycle/", "\\#snapshot/"),
    *("@Recycle/", "@Recently-Snapshot/", "@Transcode/"),
    *("$RECYCLE.BIN/", "System Volume Information/", "lost+found/", "__MACOSX/"),
    *("*.lrdata/", "*.photoslibrary/resources/", "*.photoslibrary/database/"),
    *("*.aplibrary/Thumbnails/", "*.aplibrary/Previews/", "*.migratedphotolibrary/Thumbnails/"),
    *("iPod Photo Cache/", "appdata_*/preview/"),
)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Patterns as in a .gitignore of a folder."""

    folder: Path
    lines: tuple[str, ...]
    spec: GitIgnoreSpec

    @classmethod
    def of(cls, folder: Path, lines: Sequence[str]) -> _Layer:
        return cls(folder, tuple(lines), GitIgnoreSpec.from_lines(lines))

    def says(self, path: Path, *, is_folder: bool) -> tuple[bool, str] | None:
        """Return whether a path is left out, and the last line that says so or not."""
        name = path.relative_to(self.folder).as_posix() + ("/" if is_folder else "")
        found = self.spec.check_file(name)
        if found.include is None or found.index is None:
            return None
        return found.include, self.lines[found.index].strip().removeprefix("\\")


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings, the .vesearchignore files on the way down, and the built-in list.

    The first of them that says anything of a path counts, of the files the deepest.
    """

    settings: _Layer
    files: tuple[_Layer, ...]
    built_in: _Layer

    @classmethod
    def of(cls, root: Path, settings: ScanSettings) -> Rules:
        """Return the rules for what lies below a folder."""
        out, in_ = names_in(settings.exclude), names_in(settings.include)
        # a pattern that begins with # is one here, and no comment
        lines = [f"\\{name}" if name.startswith("#") else name for name in out]
        lines += [f"!{name}" for name in in_]
        return cls(_Layer.of(root, lines), (), _Layer.of(root, BUILT_IN))

    def within(self, folder: Path) -> Rules:
        """Return the rules for a folder, its own file among them."""
        file = folder / IGNORE_FILE
        url = objects.url_of(file)
        try:
            data = file.read_bytes() if url is None else objects.read(url, _MOST_BYTES)
            layer = _Layer.of(folder, data.decode().splitlines())
        except (OSError, ValueError):  # there is none, or it is none
            return self
        return Rules(self.settings, (*self.files, layer), self.built_in)

    def leaving_out(self, path: Path, *, is_folder: bool) -> str | None:
        """Return the pattern that leaves a path out, None where it stays."""
        for layer in (self.settings, *reversed(self.files), self.built_in):
            said = layer.says(path, is_folder=is_folder)
            if said is not None:
                left_out, line = said
                return line if left_out else None
        return None
