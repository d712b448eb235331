"""`kernel<<<grid, block>>>(...)` to C++: a call of emulator::Launcher in cuda_runtime.h, on the same lines."""

import re

from kernels.emulator.errors import CompileError
from kernels.emulator.source.scan import blank, closing_parenthesis
from kernels.emulator.source.translate import line_at

MAIN = re.compile(r"\bmain\s*\(")


def has_main(code):
    """Whether a source is a program of its own."""
    return MAIN.search(blank(code)) is not None


TEMPLATE_KERNEL = re.compile(r"\btemplate\s*<[^{};]*>[^{};]*__global__[^{};]*?(\w+)\s*\([^{};]*\)\s*[{;]")


def end_main(code):
    """`code` with a `return 0` at the end of main, which the compiler will see under another name."""
    text = blank(code)
    depth = 0
    for brace in re.finditer(r"[{}]", text[MAIN.search(text).start() :]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            at = MAIN.search(text).start() + brace.start()
            return f"{code[:at]} return 0; {code[at:]}"
    return code


def overloaded_kernels(text):
    """Kernels that a name alone does not identify: templates, and those whose launcher has the same name."""
    names = set(re.findall(r"__global__[^{};()]*?(\w+)\s*\(", text))
    shared = {name for name in names if len(re.findall(rf"\bvoid\s+{name}\s*\(", text)) > 1}
    return shared | set(TEMPLATE_KERNEL.findall(text))


def translate_launches(code, name):
    """`code` of the file `name` with each launch rewritten. CompileError for a `<<<` that begins none."""
    text = blank(code)
    overloaded = overloaded_kernels(text)
    at = text.rfind("<<<")
    while at >= 0:  # from the last one on, so that what was found before stays where it is
        start, stop = _kernel_start(text, at), text.find(">>>", at)
        opening = text.find("(", stop)
        if stop < 0 or opening < 0 or closing_parenthesis(text, opening) is None:
            raise CompileError(f"{name}:{line_at(code, at)}: <<< has no >>>(...) after it")
        kernel, settings = code[start:at].strip(), code[at + 3 : stop]
        empty = not text[opening + 1 : closing_parenthesis(text, opening)].strip()
        written = re.sub(r"\s+", " ", kernel)
        callee = f"run({kernel}"
        if re.sub(r"<.*", "", written).split("::")[-1] in overloaded:  # then the arguments decide
            callee = f"run_call([](auto... emulator_each) {{ {kernel}(emulator_each...); }}"
        new = f'emulator::Launcher("{written}", emulator_line(__FILE__, __LINE__), {settings}).{callee}' + (
            "" if empty else ", "
        )
        lost = code.count("\n", start, opening + 1) - new.count("\n")
        code = code[:start] + new + "\n" * lost + code[opening + 1 :]
        text = text[:start] + " " * len(new) + "\n" * lost + text[opening + 1 :]
        at = text.rfind("<<<", 0, start)
    return code


def _kernel_start(text, end):
    """Where the name of the kernel begins that ends before `end`, its template arguments included."""
    at = len(text[:end].rstrip())
    if text[at - 1] == ">":
        depth = 0
        while at > 0:
            at -= 1
            depth += (text[at] == ">") - (text[at] == "<")
            if depth == 0:
                break
        at = len(text[:at].rstrip())
    while at > 0 and (text[at - 1].isalnum() or text[at - 1] in "_:"):
        at -= 1
    return at
