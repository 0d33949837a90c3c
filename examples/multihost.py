"""Trains on one process, on several of this machine, or on every host of a slice: the same script.

    python examples/multihost.py                  # one process
    python examples/multihost.py --processes 2    # two on this machine, with four virtual CPU devices each

On a slice of TPUs, run the first line on every host at once. The same line again goes on after an interruption.
"""

import argparse
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import optax
from datasets.digits import load_digits
from flax import nnx
from models.small_cnn import SmallCNN

import jaxloop as jl

EPOCHS = 8
BATCH_SIZE = 64  # of all devices together, so they must divide it
LEARNING_RATE = 2e-3
FOLDER = "run/multihost"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="for checkpoints and CSV; all processes must see it"
    )
    parser.add_argument("--processes", type=int, default=1, help="how many to start on this machine")
    parser.add_argument("--devices", type=int, default=4, help="virtual CPU devices of each of them")
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)  # which of them this is
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)  # the address of the first one
    return parser.parse_args()


def start_processes(count: int, devices: int) -> int:
    """Starts this script `count` times on this machine; 0 if all of them end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        command = [sys.executable, *sys.argv, f"--coordinator=127.0.0.1:{free.getsockname()[1]}"]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    started = [subprocess.Popen([*command, f"--process={index}"], env=environment) for index in range(count)]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all of them
    signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in started])
    return max(abs(process.wait()) for process in started)


def join_the_others(arguments: argparse.Namespace) -> None:
    """Makes this process know of the others, before the first array is made."""
    if arguments.coordinator:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(arguments.coordinator, arguments.processes, arguments.process)
    elif importlib.util.find_spec("libtpu") and os.environ.get("JAX_PLATFORMS") != "cpu":
        jax.distributed.initialize()  # the hosts of a slice find each other


def main() -> None:
    arguments = parse_arguments()
    if arguments.processes > 1 and not arguments.coordinator:
        sys.exit(start_processes(arguments.processes, arguments.devices))
    join_the_others(arguments)
    writes = "writes the files" if jax.process_index() == 0 else "writes nothing"
    known = f"Process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} devices, {writes}"
    print(known, flush=True)

    training, validation = load_digits()  # all samples on each process, which reads only its rows of each batch
    training_loop = jl.TrainingLoop(
        training=jl.TrainingEpochs(training, BATCH_SIZE),
        validation=jl.in_batches(validation, BATCH_SIZE),
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=LEARNING_RATE),
        loss_fn=jl.losses.softmax_cross_entropy,
        metrics=["accuracy"],
        callbacks=[
            jl.callbacks.CSVLogger(arguments.folder / "log.csv"),
            jl.callbacks.Checkpoint(arguments.folder / "checkpoints"),
        ],
    )

    _, history = training_loop.fit(
        lambda: SmallCNN(rngs=nnx.Rngs(0)), arguments.epochs, resume_from=arguments.folder / "checkpoints"
    )
    if history.stopped != "preempted" and jax.process_index() == 0:
        print(f"Validation accuracy: {history.epochs['validation_accuracy'][-1]:.2%}")


if __name__ == "__main__":
    main()
