"""The command `ptl`."""

from __future__ import annotations

import json
import random
import sys
from typing import Any, TextIO

try:
    import click
    from click.core import ParameterSource
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
except ModuleNotFoundError as missing:
    sys.exit(f"the command ptl needs {missing.name}: install ptl[cli]")

from ptl import arch, bench, proc, race, soak
from ptl._core import AddressError, OutOfFrames
from ptl._version import __version__

WRONG_TRANSLATION = 1
NOT_AS_EXPECTED = 1
ARCHITECTURES = (*arch.names(), *arch.aliases())


class Refusal(click.ClickException):
    """Something that cannot be done as asked, told in one line; not to be taken for a wrong translation."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ptl")
def main() -> None:
    """A lock-free page table whose tables come and go under its readers."""


@main.command(name="race")
@click.option("--pid", type=int, help="The process whose address space to use; by default this one.")
@click.option("--arch", "arch_name", type=click.Choice(ARCHITECTURES), default="x86_64", show_default=True)
@click.option(
    "--seconds", type=float, default=6.0, show_default=True, help="For each policy, shared by three kinds of run."
)
@click.option("--readers", type=int, default=1, show_default=True, help="Threads that translate.")
@click.option("--faulters", type=int, default=1, show_default=True, help="Threads that map, unmap and touch pages.")
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(race.POLICIES), help="May be repeated; by default all."
)
@click.option(
    "--soak",
    "soak_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Instead, run rounds that differ in all of these, for so long or to the first wrong answer.",
)
@click.option("--seed", type=click.IntRange(min=0), help="With --soak: of the first round, instead of a random one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option(
    "--html", "page", type=click.File("w", encoding="utf-8", lazy=False), help="Write a page with plots to this file."
)
@click.pass_context
def race_command(
    context: click.Context,
    pid: int | None,
    arch_name: str,
    seconds: float,
    readers: int,
    faulters: int,
    policies: tuple[str, ...],
    soak_seconds: float | None,
    seed: int | None,
    as_json: bool,
    page: TextIO | None,
) -> None:
    """Race readers and faults of a live process's address space against a collapser.

    Reader threads translate real mapped addresses and check every answer, fault threads map and unmap, and a collapser
    collapses, splits and retracts 2 MiB regions, under each locking policy in turn on the same work. The exit status is
    1 when a translation was wrong.

    A soak rotates formats, policies and knobs, beside threads that come and go, forks and signals. It stops at the
    first wrong answer, crash or hang, with the command that repeats the round, and then exits with 1.
    """
    if soak_seconds is not None:
        _refuse_others(context, {"soak_seconds", "seed", "policies", "as_json"}, "--soak")
        _soak(soak_seconds, seed, policies, as_json)
        return
    if seed is not None:
        raise click.UsageError("--seed belongs to --soak")
    settings = race.Settings(seconds, readers, faulters, policies or race.POLICIES)
    try:
        race.check(settings)
        result = _run_with_progress(settings, pid, arch_name)
    except (race.RaceError, proc.ProcessError, AddressError, OutOfFrames, ValueError) as error:
        raise Refusal(str(error)) from error
    result["command_line"] = "ptl " + " ".join(sys.argv[1:])
    if as_json:
        click.echo(json.dumps(result))
    else:
        from ptl.show import race_table

        Console().print(race_table.render(result))
    if page is not None:
        from ptl.show import race_page

        _write(page, race_page.render(result), "page")
    if result["wrong_translations"]:
        sys.exit(WRONG_TRANSLATION)


@main.command(name="arch")
@click.argument("name", required=False, type=click.Choice(ARCHITECTURES))
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON: an object, or a list of all.")
@click.option("--svg", type=click.File("w", encoding="utf-8", lazy=True), help="Write the rulers of NAME as a picture.")
def arch_command(name: str | None, as_json: bool, svg: TextIO | None) -> None:
    """List the architectures, or draw the address and the entries of one, bit by bit.

    Everything is read from the description that the table itself runs on.
    """
    from ptl.show import arch_svg, arch_table

    if name is None:
        if svg is not None:
            raise click.UsageError("--svg draws one architecture: say which")
        every = [arch.get(each) for each in arch.names()]
        if as_json:
            click.echo(json.dumps([arch_table.facts(each) for each in every]))
        else:
            Console().print(arch_table.table(every))
        return
    chosen = arch.get(name)
    if as_json:
        click.echo(json.dumps(arch_table.facts(chosen)))
    elif svg is None:
        click.echo(arch_table.text(chosen, Console().width))
    if svg is not None:
        _write(svg, arch_svg.render(chosen), "picture")


@main.command(name="bench")
@click.option("--quick", is_flag=True, help="Smaller and shorter: a look, in less than two minutes.")
@click.option("--part", "parts", multiple=True, type=click.Choice(bench.PARTS), help="May be repeated; by default all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every sample, instead of tables.")
@click.option(
    "--html", "page", type=click.File("w", encoding="utf-8", lazy=False), help="Write a page with plots to this file."
)
def bench_command(quick: bool, parts: tuple[str, ...], as_json: bool, page: TextIO | None) -> None:
    """Measure ptl beside its peers, and beside what the machine does at best.

    Peers that are not installed are skipped, and named at the end. Native ones are compiled once, into the user's cache
    directory. The whole takes less than 15 minutes on two cores.
    """
    columns = TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=None)
        result = bench.run(
            bench.QUICK if quick else bench.WHOLE,
            parts or bench.PARTS,
            lambda what: progress.update(bar, description=what),
        )
    result["command_line"] = "ptl " + " ".join(sys.argv[1:])
    if as_json:
        click.echo(json.dumps(result))
    else:
        from ptl.show import bench_table

        Console().print(bench_table.render(result))
    if page is not None:
        from ptl.show import bench_page

        _write(page, bench_page.render(result), "page")


@main.command(name="lab")
@click.argument("name", required=False, metavar="SCENARIO")
@click.option("--list", "as_list", is_flag=True, help="List the scenarios.")
@click.option("--schedule", help="Tell this schedule, such as a2b5a, instead of the shortest that fails.")
@click.option(
    "--pct",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run N random schedules instead of every one; without a scenario, of random operations of four threads.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is random.")
@click.option(
    "--html", "page", type=click.File("w", encoding="utf-8", lazy=False), help="Write a page to step through."
)
def lab_command(
    name: str | None, as_list: bool, schedule: str | None, pct: int | None, seed: int, page: TextIO | None
) -> None:
    """Explore every interleaving of a scenario, and tell the shortest schedule that fails.

    Without one that fails, each thread runs after the other. The exit status is 1 when a scenario does not come to what
    is expected of it.
    """
    from ptl import lab
    from ptl.lab import story
    from ptl.show import lab_text

    if name is None and pct is not None and not as_list:
        _sample_mixes(pct, seed)
        return
    if as_list or name is None:
        Console().print(lab_text.catalogue(lab.SCENARIOS, lab.WAITING))
        return
    if name not in lab.SCENARIOS:
        why = f"; it waits: {lab.WAITING[name]}" if name in lab.WAITING else ""
        raise Refusal(f"there is no scenario {name!r}{why}; see ptl lab --list")
    scenario = lab.SCENARIOS[name]
    if pct is not None:
        if not scenario.is_of_core:
            raise Refusal(f"{name} is a scenario of paths, whose every state is visited: random schedules add nothing")
        result = scenario.laboratory().sample(seed, pct)
    else:
        result = scenario.explore()
    try:
        told = story.tell(scenario, schedule if schedule is not None else result.schedule or "")
    except ValueError as error:
        raise Refusal(str(error)) from error
    Console().print(lab_text.render(told, result))
    if page is not None:
        from ptl.show import lab_page

        _write(page, lab_page.render(told, result), "page")
    if (result.kind or "proved") != scenario.expected:
        sys.exit(NOT_AS_EXPECTED)


def _sample_mixes(schedules: int, seed: int) -> None:
    """Sample mixes on every core, with a bar on standard error; tell the one that went wrong."""
    from ptl.lab import mixes, story
    from ptl.show import lab_text

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("random schedules", total=schedules)
        tally = mixes.run(schedules, seed, lambda more: progress.update(bar, advance=more))
    if tally.failed is not None:
        mix, result = tally.failed
        Console().print(lab_text.render(story.tell(mix, result.schedule or ""), result))
        click.echo(f"repeat it with: ptl lab --pct {mixes.SCHEDULES} --seed {mix.name.removeprefix('mix-')}")
    click.echo(tally)
    if tally.failed is not None:
        sys.exit(NOT_AS_EXPECTED)


def _refuse_others(context: click.Context, known: set[str], option: str) -> None:
    """Refuse options that were given and mean nothing beside another."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in known and source is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{parameter.opts[0]} means nothing with {option}")


def _soak(seconds: float, seed: int | None, policies: tuple[str, ...], as_json: bool) -> None:
    """Soak with a bar on standard error."""
    columns = TextColumn("{task.description:36}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=seconds)

        def tick(what: str, passed: float) -> None:
            progress.update(bar, description=what, advance=passed)

        first = random.randrange(1 << 32) if seed is None else seed
        result = soak.run(seconds, first, policies or race.POLICIES, tick)
    result["command_line"] = "ptl " + " ".join(sys.argv[1:])
    if as_json:
        click.echo(json.dumps(result))
    else:
        from ptl.show import soak_text

        Console().print(soak_text.render(result))
    if result["wrong"] is not None:
        sys.exit(WRONG_TRANSLATION)


def _write(file: TextIO, text: str, what: str) -> None:
    """Write a file that was asked for, and say where it is."""
    try:
        file.write(text)
        file.flush()
    except OSError as error:
        raise Refusal(f"the {what} could not be written to {file.name}: {error.strerror}") from error
    click.echo(f"the {what} is in {file.name}", err=True)


def _run_with_progress(settings: race.Settings, pid: int | None, arch_name: str) -> dict[str, Any]:
    """Run the race with a bar on standard error."""
    columns = TextColumn("{task.description:24}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("reading the process", total=settings.seconds * len(settings.policies))

        def tick(what: str, seconds: float) -> None:
            progress.update(bar, description=what, advance=seconds)

        return race.run(settings, pid=pid, arch=arch_name, tick=tick)
