"""Messages of the library and of the system, rewritten for the command line."""

import errno
import os
import re

#: Arguments in Python that are options of the same name on the command line.
_OPTIONS = "fps|num_frames|max_frames|max_visual_tokens|max_new_tokens|decoder|on_truncated|dtype|device|revision|rule"
_PHRASES = {
    "sampling='key_frames'": "--key-frames",
    "leave out fps and num_frames (max_frames limits": "leave out --fps and --num-frames (--max-frames limits",
    "the same call continues": "the same command continues",
    ", or give a short one as `question=` next to a long prompt": "",
}
_WAY_OUT = {
    errno.EROFS: "files there can only be read: choose another folder",
    errno.ENOSPC: "the disk is full: make room, or choose another disk",
    errno.EDQUOT: "your share of the disk is used up: make room, or choose another disk",
    errno.EACCES: "you may not do that there: choose another place, or ask its owner",
    errno.EPERM: "you may not do that there: choose another place, or ask its owner",
    errno.ENOENT: "there is no such file or folder",
    errno.EISDIR: "is a folder; name a file",
    errno.ENOTDIR: "a part of this path is not a folder",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def in_options(message: str) -> str:
    """A message of the library in which its arguments are replaced by options of the command."""
    for python, option in _PHRASES.items():
        message = message.replace(python, option)
    message = re.sub(r" \(max_question_tokens=\d+\)", "", message)
    message = re.sub(rf"\b({_OPTIONS})=(['\"]?)([\w.…-]*\w|…)\2", lambda found: _option(found[1], found[3]), message)
    return re.sub(rf"`({_OPTIONS})`", lambda found: _option(found[1]), message)


def of_the_system(message: str) -> str:
    """A message of the system without `[Errno 30]`: the file, what is wrong, and what helps."""

    def plain(found: re.Match) -> str:
        number = int(found["number"])
        what = _WAY_OUT.get(number) or found["text"][:1].lower() + found["text"][1:]
        return f"{found['file']}: {what}" if found["file"] else what[0].upper() + what[1:]

    pattern = r"\[Errno (?P<number>\d+)\] (?P<text>[^:'\[\]]*[^:'\[\]\s.])(?:: '(?P<file>[^']*)')?(?: -> '[^']*')?"
    return re.sub(pattern, plain, message)


def looks_like_option(words: list[str]) -> str | None:
    """A word of a command that is a file whose name begins with a dash, and would be read as an option."""
    for word in words:
        if word == "--":
            return None
        if word.startswith("-") and len(word) > 2 and os.path.isfile(word):
            return word
    return None


def _option(name: str, value: str = "") -> str:
    return f"--{name.replace('_', '-')}{' ' if value else ''}{value}"


__all__ = ["in_options", "looks_like_option", "of_the_system"]
