"""What a help page says about the inputs of its node, and what it ought to say."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADINGS = {"en": ("Inputs", "Outputs"), "zh": ("输入", "输出")}
WORDS = {
    "en": {"to": "{} to {}", "default": "default {}", "on": "on", "off": "off", "file": "file", "text": "text",
           "core": "as KSampler", "empty": "empty", "comma": ", "},
    "zh": {"to": "{} 到 {}", "default": "默认 {}", "on": "开启", "off": "关闭", "file": "文件", "text": "文本",
           "core": "同 KSampler", "empty": "空", "comma": "，"},
}  # fmt: skip
BULLET = {
    "en": re.compile(r"^- `(?P<id>\w+)` \((?P<facts>[^()]*)\): (?P<text>.+)$"),
    "zh": re.compile(r"^- `(?P<id>\w+)`（(?P<name>[^；]+)；(?P<facts>[^（）]*)）：(?P<text>.+)$"),
}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# Digits that belong to a name (v1, sd1.5, lora_A) are not numbers.
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w]|\.\d)")


@dataclass(frozen=True)
class Entry:
    """One line of the list of inputs or outputs: its id, what stands in brackets, the rest; `name` in Chinese."""

    id: str
    facts: str
    text: str
    name: str = ""


def numbers(text: str) -> list[float]:
    """The numbers of a text, sorted, in either language (Chinese has no space around them)."""
    return sorted(float(found) for found in NUMBER.findall(re.sub(r"([\u3000-\uffee])", r" \1 ", text)))


def entries(page: str, language: str, which: int) -> list[Entry]:
    """The lines below the heading of the inputs (0) or outputs (1)."""
    section = re.search(rf"^## {HEADINGS[language][which]}\n\n((?:- .+\n)+)", page, re.M)
    lines = section[1].splitlines() if section else []
    found = [BULLET[language].match(line) for line in lines]
    wrong = [line for line, match in zip(lines, found, strict=True) if match is None]
    assert not wrong, f"not of the form - `input` (facts): text, or - `input`（名称；……）：……: {wrong}"
    return [Entry(**match.groupdict()) for match in found]


def facts(kind: str, options: dict, language: str) -> str:
    """What the schema knows of an input, as it stands in brackets behind its name."""
    words = WORDS[language]
    default, parts = options.get("default"), []
    if kind in ("INT", "FLOAT"):
        parts = [words["to"].format(*(_number(options[end]) for end in ("min", "max")))]
        default = _number(default)
    elif kind == "BOOLEAN":
        default = words["on" if default else "off"]
    elif kind == "STRING":
        parts = [words["text"]]
        default = f"`{default}`" if default else words["empty"]
    elif kind == "COMBO":
        marks = {"<files>": "file", "<as KSampler>": "core"}
        parts = [words[marks[choice]] for choice in choices(options) if choice in marks]
        default = None if default is None else f"**{default}**"
    else:
        return kind
    if default is not None:
        space = "" if language == "zh" and CHINESE.match(default) else " "
        parts.append(words["default"].replace(" {}", space + default))
    return words["comma"].join(parts)


def choices(options: dict) -> list[str]:
    return options.get("options", [])


def _number(value: float) -> str:
    below = 2**64 - value
    return f"2^64-{below}" if 0 < below < 8 else f"{value:g}"
