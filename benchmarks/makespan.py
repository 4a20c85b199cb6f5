"""How long a fleet takes, against the least that it could take and against static lists, in virtual time.

    python -m benchmarks.makespan                            # all tables; --quick for the main rows
    python -m benchmarks.makespan --only shapes              # or fleets, chaos, callers, cost
    python -m benchmarks.makespan --cell 100in,16out,20ms    # one row, in a second

Model: an agent works in steps as vLLM does. A step takes (8 ms + 0.03 ms per decoding sequence + 1/40,000 s per prefill
token) / speed, has a budget of 8,192 tokens, and 256 sequences run at most. The bound is the time of perfectly divided
work with every slot and every budget full. *Wasted* tokens are those generated that ended in no delivered answer.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Iterable
from functools import partial

from benchmarks import makespan_callers, makespan_fleets, makespan_shapes
from benchmarks.makespan_cost import print_cost
from benchmarks.makespan_shapes import disturbed, run_cell, shapes

TABLES = ("shapes", "fleets", "chaos", "callers", "cost")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the main rows; of cost, a tenth of the size")
    parser.add_argument("--only", choices=TABLES, help="only this table")
    parser.add_argument("--cell", metavar="ROW", help="only this row of the shapes, such as 200in,4out,20ms,late")
    arguments = parser.parse_args()
    if arguments.cell is not None:
        try:
            makespan_shapes.main_cell(arguments.cell)
        except ValueError as error:
            parser.error(str(error))
        return
    wanted = [arguments.only] if arguments.only else [table for table in TABLES if table != "cost"]
    missed: list[str] = []
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=None) as pool:
        if "shapes" in wanted:
            missed += _print_shapes(partial(pool.imap, run_cell), quick=arguments.quick)
        for table in ("fleets", "chaos"):
            if table in wanted:
                names = [
                    case.name
                    for case in makespan_fleets.cases()
                    if case.chaos == (table == "chaos") and (case.quick or not arguments.quick)
                ]
                run = partial(makespan_fleets.run_case, baselines=not arguments.quick)
                missed += _print_fleets(pool.imap(run, names))
    if "callers" in wanted:
        for name, found, miss in makespan_callers.rows(quick=arguments.quick):
            print(f"{name:50}{found}", flush=True)
            missed += [miss] if miss else []
        print()
    if "cost" in wanted:
        print_cost(100_000 if arguments.quick else 1_000_000, 400 if arguments.quick else 4000)
    print("\n".join(["missed:", *missed]) if missed else "every promised figure is reached")


def _print_shapes(
    run: Callable[[list[makespan_shapes.Cell]], Iterable[tuple[str, list[str]]]], *, quick: bool
) -> list[str]:
    missed = []
    for cells in (shapes(quick=quick), disturbed(quick=quick)):
        print(makespan_shapes.HEADER)
        for row, misses in run(cells):
            print(row, flush=True)
            missed += misses
        print()
    return missed


def _print_fleets(results: Iterable[tuple[list[str], str | None]]) -> list[str]:
    missed = []
    print(makespan_fleets.HEADER)
    for rows, miss in results:
        print(*rows, sep="\n", flush=True)
        missed += [miss] if miss else []
    print()
    return missed


if __name__ == "__main__":
    main()
