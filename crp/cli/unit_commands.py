"""The commands that rank units and take them away."""
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TypeAlias

from crp.cli.arguments import add_class_names, add_json, add_store, draw_into_files, positive
from crp.neurons.method_names import OF_ONE_MODEL

if TYPE_CHECKING:
    from crp.cli.trust_answers import TrustAnswer
    from crp.cli.unit_answers import AblationAnswer, RankingAnswer

    Commands: TypeAlias = argparse._SubParsersAction[Any]


def add_rank(commands: Commands) -> None:
    """``crp rank``."""
    rank = commands.add_parser(
        "rank", help="rank the units of layers: by relevance, or by what they tell of classes", description="Rank the "
        "units of layers in a store. The ranking is kept in the store, where crp ablate and Ranking.load find it.",
    )
    add_store(rank)
    rank.add_argument(
        "--by", choices=OF_ONE_MODEL, default="relevance", help="what they are ranked by (default: relevance)"
    )
    rank.add_argument("--layer", action="append", metavar="NAME", help="a layer; may be repeated (default: all)")
    rank.add_argument(
        "--quantity", choices=["relevance", "activation"], help="of which matrix (default: relevance for --by "
        "relevance, otherwise activation)",
    )
    rank.add_argument(
        "--labels", metavar="FILE", help="a text file with a label per sample, one in each line; an empty line stands "
        "for none (default: the targets); the store then keeps the ranking under the name of the file",
    )
    rank.add_argument("--target", metavar="CLASS", help="the ranking for one class")
    rank.add_argument("--most", type=positive, default=20, metavar="N", help="how many units to tell (default: 20)")
    add_class_names(rank)
    rank.add_argument("--out", metavar="FILE", help="draw the ranking into a picture")
    add_json(rank)
    rank.set_defaults(function=_rank)


def _rank(options: argparse.Namespace) -> RankingAnswer:
    from crp.cli.experiments import rank_units
    from crp.cli.questions import ClassNames
    from crp.store import ReferenceStore

    draw_into_files()
    return rank_units(
        ReferenceStore(options.store), options.by, options.layer, options.quantity, ClassNames(options.class_names),
        labels=options.labels, target=options.target, most=options.most, picture=options.out,
    )


def add_ablate(commands: Commands) -> None:
    """``crp ablate``."""
    ablate = commands.add_parser(
        "ablate", help="take units away in the order of rankings, and see what is left of a model",
        description="Take the units of layers away in the order of rankings that crp rank has kept in a store (or that "
        "are made now), in the reverse order and at random. The file or module that says what was swept is executed: "
        "run only what you trust.",
    )
    _add_spec(ablate)
    ablate.add_argument(
        "--by", action="append", choices=OF_ONE_MODEL, help="a ranking; may be repeated (default: relevance and "
        "activation)",
    )
    ablate.add_argument("--layer", action="append", metavar="NAME", help="a layer; may be repeated (default: all)")
    ablate.add_argument(
        "--set-to", action="append", choices=["zero", "mean", "resample"], help="what units are set to; may be "
        "repeated (default: all three)",
    )
    ablate.add_argument(
        "--metric", choices=["accuracy", "probability", "logit", "cross_entropy"], default="accuracy",
        help="of the target (default: accuracy)",
    )
    ablate.add_argument(
        "--samples", type=positive, default=500, metavar="N", help="how many samples, from all over the dataset "
        "(default: 500)",
    )
    ablate.add_argument("--random", type=positive, default=8, metavar="N", help="how many random orders (default: 8)")
    ablate.add_argument("--batch-size", type=positive, default=64, metavar="N", help="samples per batch (default: 64)")
    ablate.add_argument("--out", metavar="FILE", default="crp-ablation.png", help="picture (default: crp-ablation.png)")
    add_json(ablate)
    ablate.set_defaults(function=_ablate)


def _ablate(options: argparse.Namespace) -> AblationAnswer:
    from crp.cli.experiments import ablate

    draw_into_files()
    return ablate(
        options.spec, options.store, options.by or ["relevance", "activation"], options.layer,
        options.set_to or ["zero", "mean", "resample"], metric=options.metric, samples=options.samples,
        random=options.random, batch_size=options.batch_size, picture=options.out,
    )


def add_trust(commands: Commands) -> None:
    """``crp trust``"""
    trust = commands.add_parser(
        "trust", help="check whether the concepts of a sweep can be trusted", description="Check layers of a model and "
        "of its store: does relevance add up, do answers follow it, does it depend on what was learned, is it stable, "
        "are concepts clear? The exit code is 1 if something does not hold. The file or module that says what was "
        "swept is executed, and that of --held-out: run only what you trust.",
    )
    _add_spec(trust)
    trust.add_argument("--layer", action="append", metavar="NAME", help="a layer; may be repeated (default: all)")
    trust.add_argument(
        "--held-out", metavar="NAME", help="file.py:function or module:function that gives samples which the model has "
        "not seen, such as crp.demo.digits:held_out_digits (default: those that were swept)",
    )
    trust.add_argument(
        "--samples", type=positive, default=64, metavar="N", help="on how many samples the model is run, from all over "
        "the dataset (default: 64)",
    )
    trust.add_argument("--most", type=positive, default=10, metavar="N", help="how many concepts to tell (default: 10)")
    trust.add_argument("--batch-size", type=positive, default=64, metavar="N", help="rows per batch (default: 64)")
    trust.add_argument("--out", metavar="FOLDER", default="crp-trust", help="folder of pictures (default: crp-trust)")
    add_json(trust)
    trust.set_defaults(function=_trust)


def _trust(options: argparse.Namespace) -> TrustAnswer:
    from crp.cli.trust import trust

    draw_into_files()
    return trust(
        options.spec, options.store, options.layer, options.out, held_out=options.held_out, samples=options.samples,
        most=options.most, batch_size=options.batch_size,
    )


def _add_spec(parser: argparse.ArgumentParser) -> None:
    """What was swept, and where its store is."""
    parser.add_argument(
        "spec", metavar="SPEC", help="what was swept: file.py, file.py:function or module:function, such as "
        "crp.demo.digits:digit_sweep",
    )
    parser.add_argument("--store", metavar="FOLDER", help="folder of the store (default: as specified)")
