"""What the checked builds add to a source: memory that nobody wrote, shared memory apart, returns that end a kernel.

- A local variable declared without an initializer is announced, so that reading it before it is written is found.
- A static `__shared__` variable becomes a member of emulator::Shared (qualifiers.h): no better aligned than declared,
  and with unused memory around it.
- `return;` in a kernel says so: a thread that has left need not come to a later barrier.

Every rewritten statement stays on its lines. What this does not recognize stays as it is, and unchecked.
"""

import re

from kernels.emulator.source.scan import ALIGNMENT, blank, split, statements

KEYWORDS = frozenset(
    """alignas asm auto break case class const constexpr continue decltype default delete do else enum explicit extern
    friend goto if inline namespace new operator public private protected register return sizeof static static_assert
    struct switch template this throw try typedef union using while __shared__ __constant__ __device__
    __extension__""".split()  # noqa: SIM905
)
# typename T::type, unsigned long, std::pair<int, float>
TYPE = (
    r"(?:(?:typename|volatile|unsigned|signed|long|short)\s+)*"
    r"[A-Za-z_]\w*(?:\s*::\s*\w+)*(?:\s*<[^;{}()]*?>(?:\s*::\s*\w+)*)?"
)
WORDS = r"(?:\s+(?:int|long|short|char|unsigned|double))*"
LOCAL = re.compile(rf"({TYPE}{WORDS})(\s*[*\s]\s*)((?:\*\s*)*[A-Za-z_]\w*\b[^;]*);$", re.DOTALL)
NAME = re.compile(r"[\s*]*(?:__restrict__\s*)?([A-Za-z_]\w*)((?:\s*\[[^\]]*\])*)\s*")
SHARED = re.compile(r"(?:static\s+)?((?:volatile\s+)?)__shared__\s+(.*);$", re.DOTALL)
SHARED_TYPE = re.compile(rf"({TYPE}{WORDS})([\s*]+)([A-Za-z_]\w*\b.*)$", re.DOTALL)
RETURN = re.compile(r"\breturn\s*;")


def add_checks(code, locals_too=True):
    """`code` with the additions above; without those to local variables if `locals_too` is false."""
    text, edits = blank(code), []
    for number, statement in enumerate(statements(text)):
        body = text[statement.start : statement.stop]
        if "__shared__" in body:
            edits += _shared(body, statement)
        elif statement.kernel and (match := RETURN.search(body)) and match.end() == len(body):
            at = statement.start + match.start()
            edits.append((at, statement.stop, "{ emulator_returns(); return; }"))
        elif locals_too and not statement.switch:
            names = unwritten_names(body)
            hooks = "".join(f' emulator::Unwritten emulator_local_{number}_{n}{{{n}, "{n}"}};' for n in names)
            edits += [(statement.stop, statement.stop, hooks)] if hooks else []
    for start, stop, new in reversed(edits):
        code = code[:start] + new + code[stop:]
    return code


def unwritten_names(statement):
    """The variables that a statement declares without an initializer."""
    body = ALIGNMENT.sub(lambda m: " " * len(m[0]), statement).strip()
    match = LOCAL.fullmatch(body)
    words = re.findall(r"\w+", match[1]) if match else []
    if not match or any(word in KEYWORDS for word in words) or not (match[2].strip() or match[2]):
        return []
    names = []
    for declarator in split(match[3]):
        name = NAME.fullmatch(declarator)
        if name and name[1] not in KEYWORDS:
            names.append(name[1])
    return names


def _shared(body, statement):
    """The edit that takes a static shared declaration apart, or none if it is not of the usual form."""
    alignment = ALIGNMENT.search(body)
    plain = ALIGNMENT.sub(" ", body)
    match = SHARED.fullmatch(re.sub(r"^\s*extern\b", "extern", plain.strip()))
    if not match:
        return []
    parts = SHARED_TYPE.fullmatch((match[1] + match[2]).strip())
    if not parts or any(word in ("struct", "union", "class", "extern") for word in re.findall(r"\w+", parts[1])):
        return []
    if alignment and re.search(r"\(\s*[a-z]", alignment[0]):  # of a type
        return []
    stars = parts[2].replace(" ", "").replace("\n", "")
    bytes_aligned = f", {alignment[0][alignment[0].index('(') :]}" if alignment else ""
    lines = []
    for declarator in split(parts[3]):
        name = NAME.fullmatch(declarator)
        if not name:
            return []
        kind = f"{parts[1]} {stars}{name[2].strip()}"
        declared = f"emulator::Shared<{kind}{bytes_aligned}>"
        lines.append(
            f"EMULATOR_APART static EMULATOR_CONSTINIT thread_local {declared} emulator_shared_{name[1]};"
            f" static char emulator_before_{name[1]}[alignof({declared})] __attribute__((used));"
            f" static char emulator_size_{name[1]}[sizeof({kind})] __attribute__((used));"
            f" {parts[1]} {stars}(&{name[1]}){name[2].strip()} = emulator_shared_{name[1]}.data;"
        )
    return [(statement.start, statement.stop, " ".join(lines) + "\n" * body.count("\n"))]
