"""Train a GPT on text: `python train.py`, or with a preset, a file and any flag of `python train.py --help`.

The training loop reads from top to bottom; each part that it calls is a short function in the package `gpt`.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tinytensor as tt
from gpt.cli import configure_process, lossy_output, make_parser, parse, run_command
from gpt.directories import locked, temporary_directory
from gpt.distributed.launch import between_devices, own_device, require_one_rank, started_ranks
from gpt.distributed.run import follow, lead, start_together
from gpt.errors import UserError
from gpt.model import GPTConfig
from gpt.options import build, check_options, option
from gpt.planning.check import check_training
from gpt.planning.plan import memory_table, time_estimate
from gpt.signals import GracefulExit
from gpt.training.batches import Batches, EvalWindows
from gpt.training.manifest import find_verified
from gpt.training.optimizer import build_optimizer, choose_trained
from gpt.training.recipe import PRESETS, RENAMED, WITHOUT_MUON, TrainConfig, require_used
from gpt.training.report import Report, describe, describe_model, finish
from gpt.training.run import Run, create_run, open_run
from gpt.training.trainer import (
    LossScaler,
    Throughput,
    build_model,
    due,
    evaluate,
    make_parallel,
    require_finite,
    train_step,
    with_precision,
)
from gpt.weights.load import inherit, pinned, start_from
from tinytensor.parallel import ONE_RANK, BatchParallel, Communicator, own_cores


@dataclass(frozen=True)
class RunOptions:
    """Which run to start or resume."""

    preset: str = option("default", "named settings, which the flags below change", choices=tuple(PRESETS))
    out: str = option("", "directory of the new run (default runs/PRESET-1, -2, ...)")
    resume: str = option("", "directory of a run to resume, bit-exactly")
    from_scratch: bool = option(False, "with --resume: begin again at step 0 if the checkpoints are lost or invalid")
    stop_after: int = option(0, "stop after this step, as if interrupted; 0 runs to the end", at_least=0)
    plan: bool = option(False, "print the memory and time that the run would take, and do nothing")

    def __post_init__(self) -> None:
        check_options(self)
        if self.from_scratch and not self.resume:
            raise UserError("--from-scratch: needs --resume and the directory of a run")


GROUPS = {"run": RunOptions, "model": GPTConfig, "training": TrainConfig}
NOT_SETTINGS = ("resume", "from_scratch", "stop_after", "plan")  # flags of one command, not of a run


def main(argv: Sequence[str] | None = None) -> int:
    """The command: start or resume a run, and train, together with the other ranks if a launcher has started some."""
    with started_ranks() as ranks:
        return start(argv, ranks)


def start(argv: Sequence[str] | None, ranks: Communicator) -> int:
    """Open the run, make its model, and train; a rank that is not the first follows it into its run."""
    parser = make_parser("python train.py", "Train a GPT on text.", GROUPS, PRESETS["default"])
    given = parse(parser, GROUPS, argv, RENAMED)
    options = build(RunOptions, given)
    changes = {name: value for name, value in given.items() if name not in NOT_SETTINGS}
    tt.device(changes.get("device", "auto"))  # if it is missing, fail before anything is written
    with lossy_output():
        if options.plan:
            require_one_rank(ranks, "--plan")
            return plan(options, changes)
        resumed = bool(options.resume)
        if ranks.rank:
            run = follow(ranks, changes, resumed)
            with GracefulExit() as exit_requested:
                return train(options, run, *make_model(run, changes, resumed, ranks), exit_requested, ranks)
        if resumed:
            run = open_run(options.resume, changes)
            with locked(run.directory), GracefulExit() as exit_requested:
                run.verify()
                lead(ranks, run, changes)
                return train(options, run, *make_model(run, changes, resumed, ranks), exit_requested, ranks)
        settings = configure(options, changes)
        # before the corpus is read, so the vocabulary may not be known
        check_training(*settings, changes, quiet=True, ranks=ranks)
        with create_run(options.out, options.preset, *settings, ranks) as run:
            made = make_model(run, changes, ranks=ranks)  # what does not work or fit leaves no directory
            run.keep_base()
            if run.start:
                start_from(made[0], run.start)
        with locked(run.directory), GracefulExit() as exit_requested:
            lead(ranks, run, changes)
            return train(options, run, *made, exit_requested, ranks)


def configure(options: RunOptions, changes: dict[str, Any]) -> tuple[GPTConfig, TrainConfig]:
    """The settings of a new run: a preset's, changed by the flags."""
    preset = PRESETS[options.preset]
    if preset.get("optimizer") == "muon" and ("init_from" in changes or changes.get("model") == "bigram"):
        preset = preset | WITHOUT_MUON
        steps = changes.get("steps", preset["steps"])
        preset["warmup_steps"] = min(preset["warmup_steps"], steps // 10)  # a short run is not all warm-up
    settings = preset | changes
    if settings.get("init_from"):
        settings["init_from"] = pinned(settings["init_from"])
        find_verified(settings["init_from"])
        settings |= inherit(settings["init_from"], changes)
    train_config = build(TrainConfig, settings)
    require_used(train_config, changes)
    return build(GPTConfig, settings), train_config


def plan(options: RunOptions, changes: dict[str, Any]) -> int:
    """Print what a run would need; a new one is made in a temporary directory, for its vocabulary and its tokens."""
    if options.resume:
        return print_plan(open_run(options.resume, changes), options, changes)
    settings = configure(options, changes)
    with temporary_directory() as folder, create_run(f"{folder}/run", options.preset, *settings) as run:
        return print_plan(run, options, changes)


def print_plan(run: Run, options: RunOptions, changes: dict[str, Any]) -> int:
    """Print the memory that a run needs, and if that is there, the time of its steps."""
    resumed = bool(options.resume)
    print(memory_table(run, resumed), flush=True)
    done = 0 if options.from_scratch else run.last_step()
    print(time_estimate(run, done, *make_model(run, changes, resumed)))
    return 0


def make_model(
    run: Run, changes: dict[str, Any], resumed: bool = False, ranks: Communicator = ONE_RANK
) -> tuple[Any, BatchParallel, Any]:
    """The model of a run, with its initial weights, what computes its gradients, and its optimizer."""
    check_training(run.model, run.train, changes, resumed, ranks=ranks)
    device = own_device(run.train.device, ranks)
    configure_process(device, own_cores(run.train.processes, ranks), run.train.splits)
    model = build_model(run.train.model, run.model, run.train.seed, device)
    choose_trained(model, run.train)
    # processes are forked before there is any state of the optimizer, of which each would keep a copy
    parallel = make_parallel(with_precision(model, run.train), device, run.train, ranks)
    return model, parallel, build_optimizer(model, run.train, between_devices(ranks, device))


def train(
    options: RunOptions,
    run: Run,
    model: Any,
    parallel: BatchParallel,
    optimizer: Any,
    exit_requested: GracefulExit,
    ranks: Communicator,
) -> int:
    """Train until the last step, or until a signal asks for a checkpoint and an early exit; returns the exit code."""
    config, device = run.train, own_device(run.train.device, ranks)
    tokens = run.tokens()
    block_size, size, count = run.model.block_size, config.batch_size, config.eval_batches
    batches = Batches(tokens.train, block_size, config.seed, tokens.train_answers)
    eval_windows = EvalWindows(tokens.val, block_size, size, count, tokens.val_answers)
    progress, notes = run.restore(model, optimizer, options.from_scratch)
    if options.resume and run.start and (progress.step == 0 or config.lora_rank) and ranks.rank == 0:
        start_from(model, run.start)
    progress = start_together(ranks, progress, model, optimizer)
    scaler = LossScaler(parallel.model, progress) if config.dtype == "float16" else None
    schedule = tt.optim.SCHEDULES[config.schedule]
    for sentence in notes:
        print(f"warning: {sentence}", file=sys.stderr)
    print(describe_model(config.model, model, device))
    print(describe(tokens))
    print(f"run: {run.directory}", flush=True)

    began = time.perf_counter() - progress.seconds
    throughput = Throughput(config.windows * run.model.block_size)
    last = min(config.steps, options.stop_after or config.steps)
    with Report(run, model, progress) as report:
        if progress.step == 0:
            report.begin(require_finite("validation loss", evaluate(parallel.model, eval_windows, ranks), 0, config.lr))
        for step in range(progress.step, last):
            with throughput:
                lr = schedule(step, config.steps, config.warmup_steps, config.lr, config.min_lr)
                optimizer.lr = lr
                loss, norm = train_step(parallel, optimizer, batches, step, config, ranks, scaler)
                progress.step = step + 1
                exiting = ranks.any(bool(exit_requested))
                evaluating = due(progress.step, config.eval_interval, config.steps)
                logging = due(progress.step, config.log_interval, config.steps) or evaluating
                saving = due(progress.step, config.checkpoint_interval, last) or exiting
                if logging or saving:
                    train_loss = require_finite("training loss", loss, progress.step, lr)
                    grad_norm = require_finite("gradient norm", norm, progress.step, lr)

            progress.seconds = time.perf_counter() - began
            if logging:
                row = {"step": progress.step, "train_loss": train_loss, "lr": lr, "grad_norm": grad_norm}
                if evaluating:
                    val_loss = evaluate(parallel.model, eval_windows, ranks)
                    row["val_loss"] = require_finite("validation loss", val_loss, progress.step, lr)
                    run.record_val_loss(progress, val_loss, model)
                report.log(row | {"tokens_per_second": throughput.read(), "seconds": round(progress.seconds, 3)})
            if saving:
                run.save(progress, model, optimizer)
            report.advance()
            if exiting:
                break

    if ranks.rank == 0:
        finish(run, progress)
    return 130 if ranks.any(bool(exit_requested)) and progress.step < config.steps else 0


def console_script():
    """The exit code of the command `tinytensor-train`."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(console_script())
