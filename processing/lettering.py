"""Text of figures: its width, its lines, and the fonts that have its letters."""

import unicodedata
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_FONT = "DejaVu Sans"  # comes with matplotlib
_MOST_FONTS = 8


@lru_cache(maxsize=256)
def _letters_of(font_file: str) -> frozenset[int]:
    try:
        return frozenset(font_manager.get_font(font_file).get_charmap())
    except (OSError, RuntimeError, ValueError):  # fonts that are damaged, or made of pictures
        return frozenset()


def fonts_for(text: str) -> tuple[list[str], str]:
    """Names of installed fonts that have all letters of a text, and the letters that none of them has."""
    invisible = {"Cc", "Cf", "Zs", "Zl", "Zp"}
    wanted = {letter for letter in text if unicodedata.category(letter) not in invisible}
    names = [_FONT]
    wanted -= set(map(chr, _letters_of(font_manager.findfont(_FONT))))
    if wanted:
        # A family's regular weight stands for it; in the same order on each machine.
        regular = (400, "normal", "regular")
        fonts = {
            font.name: font for font in sorted(font_manager.fontManager.ttflist, key=lambda f: f.weight in regular)
        }
        # Fonts "of last resort" have a box for every letter.
        for name in sorted(name for name in fonts if not name.startswith("Last Resort")):
            found = {letter for letter in wanted if ord(letter) in _letters_of(fonts[name].fname)}
            if found and len(names) < _MOST_FONTS:
                names.append(name)
                wanted -= found
            if not wanted:
                break
    return names, "".join(sorted(wanted))


def script_of(letter: str) -> str:
    """The kind of a letter, such as `"Hangul"`, by its name in Unicode."""
    return unicodedata.name(letter, "unnamed").split()[0].split("-")[0].capitalize().replace("Cjk", "CJK")


class Pen:
    """Measures text on a figure, in the fonts that are set when it is called."""

    def __init__(self, figure: Figure):
        self.figure, self.renderer = figure, FigureCanvasAgg(figure).get_renderer()

    def width(self, text: str, size: float, weight: str = "normal") -> float:
        """Width of a line, in inches."""
        font = font_manager.FontProperties(size=size, weight=weight)
        return self.renderer.get_text_width_height_descent(text, font, False)[0] / self.figure.dpi

    def wrapped(self, text: str, space: float, size: float, weight: str = "normal") -> list[str]:
        """Lines of `space` inches at most, broken between words, or within a word that is longer than a line."""
        blank = self.width("a a", size, weight) - self.width("aa", size, weight)
        lines: list[str] = []
        room = 0.0
        for word in text.split():
            for part in self._parts(word, space, size, weight):
                length = self.width(part, size, weight)
                if lines and blank + length <= room:
                    lines[-1] += f" {part}"
                    room -= blank + length
                else:
                    lines.append(part)
                    room = space - length
        return lines

    def _parts(self, word: str, space: float, size: float, weight: str) -> list[str]:
        if self.width(word, size, weight) <= space:
            return [word]
        parts, room = [""], space
        for letter in word:
            length = self.width(letter, size, weight) * 1.02
            if length > room:
                parts.append("")
                room = space
            parts[-1] += letter
            room -= length
        return parts


__all__ = ["Pen", "fonts_for", "script_of"]
