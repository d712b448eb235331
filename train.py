"""Train a GPT on text: `python train.py`, or with a preset, a file and any flag of `python train.py --help`.

The top floor: it reads from top to bottom, and each piece it calls is a short function of the package `gpt`.
"""

import sys
import time
from dataclasses import dataclass

from tqdm import tqdm

import tinytensor as tt
from gpt.cli import make_parser, parse, run_command
from gpt.config import PRESETS, GPTConfig, TrainConfig, build, check_options, option
from gpt.data import Batches, EvalWindows, open_tokens
from gpt.generate import write_sample
from gpt.metrics import write_plot
from gpt.pretrained import inherit, start_from
from gpt.run import create_run, open_run
from gpt.trainer import (
    Interruption,
    Speed,
    build_model,
    build_optimizer,
    due,
    evaluate,
    finite,
    gradient_function,
    open_device,
    train_step,
)


@dataclass(frozen=True)
class Command:
    """What to do with a run."""

    preset: str = option("default", "named settings, which the flags below change", choices=tuple(PRESETS))
    out: str = option("", "directory of the new run (default runs/PRESET-1, -2, ...)")
    resume: str = option("", "directory of a run to go on with, to the same bits")
    stop_after: int = option(0, "leave after this step, as if interrupted; 0 goes to the end", at_least=0)

    def __post_init__(self):
        check_options(self)


GROUPS = {"run": Command, "model": GPTConfig, "training": TrainConfig}


def start(argv):
    """The command, and the new or resumed run that it asks for."""
    parser = make_parser("python train.py", "Train a GPT on text.", GROUPS, PRESETS["default"])
    given = parse(parser, GROUPS, argv)
    command = build(Command, given)
    changes = {name: value for name, value in given.items() if name not in ("resume", "stop_after")}
    tt.device(changes.get("device", "auto"))  # if it is missing, say so before anything is written
    if command.resume:
        return command, open_run(command.resume, changes)
    settings = PRESETS[command.preset] | changes
    if settings.get("init_from"):
        settings |= inherit(settings["init_from"], changes)
    model, train = build(GPTConfig, settings), build(TrainConfig, settings)
    return command, create_run(command.out, command.preset, model, train)


def main(argv=None):
    command, run = start(argv)
    config, device = run.train, open_device(run.train)
    tokens = open_tokens(run.directory)
    batches = Batches(tokens.train, run.model.block_size, config.batch_size, config.seed)
    eval_windows = EvalWindows(tokens.val, run.model.block_size, config.batch_size, config.eval_batches)
    model = build_model(config.model, run.model, config.seed, device)
    optimizer = build_optimizer(model, config)
    backward = gradient_function(model, device, config.batch_size)
    progress, damaged = run.restore(model, optimizer)
    if config.init_from and progress.step == 0:
        start_from(model, config.init_from)
    for sentence in damaged:
        print(f"skipped: {sentence}", file=sys.stderr)
    size = sum(parameter.data.size for parameter in model.parameters())
    print(f"model: {config.model} with {size:,} parameters on {device.name}")
    print(f"data: {tokens.source}, {len(tokens.train):,} tokens to train on, {len(tokens.val):,} to validate")
    print(f"run: {run.directory}", flush=True)

    began = time.perf_counter() - progress.seconds
    speed = Speed(config.batch_size * config.accumulation * run.model.block_size)
    last = min(config.steps, command.stop_after or config.steps)
    bar = tqdm(total=config.steps, initial=progress.step, unit="step", mininterval=0.5, dynamic_ncols=True)
    with bar, Interruption() as interruption:
        for step in range(progress.step, last):
            with speed:
                lr = tt.cosine_schedule(step, config.steps, config.warmup, config.lr, config.min_lr)
                optimizer.lr = lr
                loss, norm = train_step(backward, optimizer, batches, step, config, device)
                progress.step = step + 1
                leaving = bool(interruption)
                evaluating = due(progress.step, config.eval_interval, config.steps)
                logging = due(progress.step, config.log_interval, config.steps) or evaluating
                saving = due(progress.step, config.checkpoint_interval, last) or leaving
                if logging or saving:
                    train_loss = finite("training loss", loss, progress.step, lr)
                    grad_norm = finite("gradient norm", norm, progress.step, lr)

            progress.seconds = time.perf_counter() - began
            if logging:
                row = {"step": progress.step, "train_loss": train_loss, "lr": lr, "grad_norm": grad_norm}
                if evaluating:
                    val_loss = evaluate(model, eval_windows, device)
                    row["val_loss"] = finite("validation loss", val_loss, progress.step, lr)
                    run.note_val_loss(progress, val_loss, model)
                row |= {"tokens_per_second": speed.read(), "seconds": round(progress.seconds, 3)}
                run.metrics.append(row)
                state = f"loss {train_loss:.4f}, {row['tokens_per_second']:,} tokens/s {device.memory()}"
                bar.set_postfix_str(state.strip(), refresh=False)
            if saving:
                run.save(progress, model, optimizer)
            bar.update()
            if leaving:
                break

    if progress.step < config.steps:
        print(f"stopped at step {progress.step}; to go on: python train.py --resume {run.directory}")
        return 130 if interruption else 0
    finish(run, progress, device)
    return 0


def finish(run, progress, device):
    """Print how the run ended, and leave a picture of its losses and a sample of its text."""
    best = f"{progress.best_val_loss:.4f} at step {progress.best_step}"
    print(f"val loss {progress.val_loss:.4f} at the end, best {best}")
    print(write_plot(run.metrics.rows(), run.directory / "loss.png"))
    print(write_sample(run.directory, device))
    print(f'more text: python -m gpt.generate {run.directory} --prompt "..." --tokens 500')


def console_script():
    """The exit code of the command `tinytensor-train`."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(console_script())
