"""Inline PTX to calls of functions, one for each instruction that tensor_cores.h offers.

`asm("ldmatrix... {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "r"(p))` becomes `emulator::ptx::ldmatrix...(a, b, p)`.
A template may hold several instructions. Registers of its own, predicates and labels are not offered.
"""

import re

from kernels.emulator.errors import CompileError
from kernels.emulator.source.scan import blank, closing_parenthesis, split

ASM = re.compile(r"\b(?:asm|__asm__|__asm)\b\s*(?:volatile|__volatile__)?\s*\(")
STRING = re.compile(r'"((?:\\.|[^"\\])*)"')
OPERAND = re.compile(r'\s*"[^"]*"\s*\((.*)\)\s*$', re.DOTALL)
SPECIAL = {"%laneid": "emulator::ptx::lane_index()", "%warpid": "(threadIdx.x / 32)", "%smid": "0"}


def translate_asm(code, name):
    """`code` of the file `name` with each asm statement rewritten, every line where it was."""
    if "asm" not in code:
        return code
    text = blank(code)
    for match in reversed(list(ASM.finditer(text))):
        opening = match.end() - 1
        closing = closing_parenthesis(text, opening)
        if closing is None:
            raise CompileError("an asm statement does not end")
        line = code.count("\n", 0, match.start()) + 1
        calls = _calls(code[opening + 1 : closing], f"{name}:{line}")
        lost = code.count("\n", match.start(), closing + 1)
        code = code[: match.start()] + "do { " + calls + " } while (0)" + "\n" * lost + code[closing + 1 :]
    return code


def _calls(body, place):
    """The C++ statements for the inside of one asm statement."""
    sections = _sections(body)
    template = "".join(STRING.findall(sections[0])).replace("\\n", "\n").replace("\\t", " ")
    operands = []
    for section in sections[1:3]:
        for operand in split(section) if section.strip() else ():
            operands.append(OPERAND.fullmatch(re.sub(r"^\s*\[\w+\]", "", operand))[1])
    template = re.sub(r"//[^\n]*|/\*.*?\*/", "", template, flags=re.DOTALL).replace("\n", " ").strip()
    if template.startswith("{") and template.endswith("}") and ";" in template:
        template = template[1:-1]
    instructions = [part.strip() for part in template.split(";") if part.strip()]
    return " ".join(_call(instruction, operands, place) for instruction in instructions)


def _sections(body):
    """`body` at its single colons outside strings and parentheses."""
    parts, start, depth, string, i = [], 0, 0, False, 0
    while i < len(body):
        character = body[i]
        if character == '"' and body[i - 1 : i] != "\\":
            string = not string
        elif not string:
            depth += (character in "([{") - (character in ")]}")
            if character == ":" and depth == 0:
                if body[i + 1 : i + 2] == ":":
                    parts += [body[start:i], ""] if start <= i else []
                    start, i = i + 2, i + 2
                    continue
                parts.append(body[start:i])
                start = i + 1
        i += 1
    return [*parts, body[start:]]


def _call(instruction, operands, place):
    mnemonic, _, rest = instruction.partition(" ")
    if mnemonic.startswith((".", "@")) or mnemonic.endswith(":"):
        raise CompileError(f"{place}: the emulator does not offer {instruction!r} in inline PTX")
    arguments = [part.strip(" {}[]\t") for part in rest.replace("{", "").replace("}", "").split(",") if part.strip()]
    for special, value in SPECIAL.items():
        arguments = [value if argument in ("%" + special, special) else argument for argument in arguments]
    arguments = [re.sub(r"%(\d+)", lambda m: f"({operands[int(m[1])]})", argument) for argument in arguments]
    if not mnemonic.replace(".", "").replace(":", "").isidentifier():
        raise CompileError(f"{place}: the emulator cannot read {instruction!r} in inline PTX")
    return f"emulator::ptx::{mnemonic.replace('::', '__').replace('.', '_')}({', '.join(arguments)});"
