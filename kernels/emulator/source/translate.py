"""CUDA source to C++ text: the few things that no macro can express, rewritten in place, every line where it was.

Includes, `extern __shared__`, `#pragma unroll`, and which kernels a source has. Next: declarations.py.
"""

import re
from pathlib import Path

from kernels.emulator.source.ptx import translate_asm

INCLUDE = Path(__file__).parents[1] / "include"
TOOLKIT = r"(?:cuda\w*|device_\w+|math_constants|vector_\w+|sm_\w+|helper_\w+|driver_types)\.(?:h|hpp)"
TOOLKIT_INCLUDE = re.compile(rf'#[ \t]*include[ \t]*[<"]({TOOLKIT})[>"]')
QUOTED_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"[ \t]*(?://.*)?$', re.MULTILINE)
LINE = re.compile(r"^[ \t]*#[ \t]*line[ \t]+(\d+)\b.*$", re.MULTILINE)
ANY_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include\b.*$", re.MULTILINE)
PARENTHESES = r"\((?:[^()]|\([^()]*\))*\)"
ALIGNED = rf"(?:(?:__align__|alignas)\s*{PARENTHESES}\s*)?"
DYNAMIC_SHARED = re.compile(
    rf"\bextern\s+{ALIGNED}(volatile\s+)?__shared__\s+{ALIGNED}([\w:<>\s]+?)\s+{ALIGNED}(\w+)\s*\[\s*\]\s*;"
)
LAUNCH_BOUNDS = re.compile(rf"__launch_bounds__\s*({PARENTHESES})")
OWN_TYPE = re.compile(r"\btypedef\b[^;{}]*?\b(u?int(?:8|16|32|64)_t)\s*;")
UNROLL = re.compile(r"^([ \t]*)#[ \t]*pragma[ \t]+unroll\b[ \t]*\(?[ \t]*(\w*)[ \t]*\)?[ \t]*(?://.*)?$", re.MULTILINE)


def inline_includes(code, name, directories, seen=()):
    """`code` of the file `name` with each `#include "file"` found in `directories` replaced by that file's text.

    A file that is included twice, or includes itself, appears once if it says `#pragma once`.
    """
    seen = set(seen)

    def replace(match):
        path = next((Path(d) / match[1] for d in directories if (Path(d) / match[1]).is_file()), None)
        if path is None:
            return match[0]
        text = path.read_text()
        line = line_at(code, match.start())
        if "#pragma once" in text:
            if path.resolve() in seen:
                return ""
            seen.add(path.resolve())
        text = inline_includes(text.replace("#pragma once", ""), path.name, [*directories, path.parent], seen)
        return f'#line 1 "{path.name}"\n{text}\n#line {line + 1} "{name}"'

    return QUOTED_INCLUDE.sub(replace, code)


def line_at(code, position):
    """The number of the line at a position, as the last `#line` before it says."""
    number, start = 1, 0
    for directive in LINE.finditer(code, 0, position):
        number, start = int(directive[1]) - 1, directive.end()
    return number + code.count("\n", start, position)


def translate(code, name):
    """`code` of the file `name`, rewritten where no macro can express what it says; every line stays where it was."""
    code = TOOLKIT_INCLUDE.sub(lambda m: m[0] if (INCLUDE / m[1]).exists() else "", code)
    code = UNROLL.sub(_unroll, translate_asm(code, name))
    return DYNAMIC_SHARED.sub(_dynamic_shared, code)


def _unroll(match):
    count = match[2] or "32"
    return f"{match[1]}#pragma GCC unroll {min(int(count), 65534) if count.isdecimal() else 32}"


def _dynamic_shared(match):
    kind = (match[1] or "") + match[2]
    return f"{kind}* const {match[3]} = static_cast<{kind}*>(emulator_dynamic_shared());"


def host_options(options):
    """(macros, include directories): the options of NVRTC that mean something to a host compiler."""
    macros, directories, words = [], [], iter(options)
    for word in words:
        if word in ("-D", "-U", "-I"):
            word += next(words, "")
        for long, short in (("--define-macro=", "-D"), ("--undefine-macro=", "-U"), ("--include-path=", "-I")):
            word = short + word[len(long) :] if word.startswith(long) else word
        if word.startswith("-D"):
            name, _, value = word[2:].partition("=")
            macros.append(f"#define {name} {value or 1}\n")
        elif word.startswith("-U"):
            macros.append(f"#undef {word[2:]}\n")
        elif word.startswith("-I"):
            directories.append(word[2:])
    return "".join(macros), directories


def rename_own_types(code):
    """Macros for a source that declares `uint64_t` and its kind itself, which NVRTC lacks and the host has."""
    return "".join(f"#define {name} source_{name}\n" for name in sorted(set(OWN_TYPE.findall(code))))


def find_kernels(text):
    """The `__global__` functions of preprocessed CUDA text: {name: (launch bounds, parameters, restricted ones)}.

    And the same of the templates, of which only an instance can be called: see RawModule's name_expressions.
    """
    found, templates = {}, {}
    for match in re.finditer(r"__global__\s([^{;]*)\{", text):
        before = text[: match.start()]
        kind = templates if "template" in before[max(before.rfind(";"), before.rfind("}"), 0) :] else found
        bounds = LAUNCH_BOUNDS.search(match[1])
        head = re.fullmatch(r".*?(\w+)\s*\((.*)\)\s*", LAUNCH_BOUNDS.sub(" ", match[1]), re.DOTALL)
        parameters = [p for p in _without_template_arguments(head[2]).split(",") if p.strip() not in ("", "void")]
        names = [re.findall(r"\w+", parameter)[-1] for parameter in parameters]
        restricted = [name for name, parameter in zip(names, parameters, strict=True) if "__restrict" in parameter]
        kind[head[1]] = (bounds[1] if bounds else "(1024)", names, restricted)
    return found, templates


def _without_template_arguments(text):
    """`text` without `<...>`, whose commas separate no parameters."""
    while (shorter := re.sub(r"<[^<>]*>", "", text)) != text:
        text = shorter
    return text
