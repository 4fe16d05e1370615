"""Serves a page, web.html, on which a model segments pictures and each query is explained.

A picture goes through the network once; each change of a threshold repeats inference alone.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

try:
    from flask import Flask, Response, jsonify, request, send_file
    from werkzeug.exceptions import HTTPException
    from werkzeug.serving import make_server
except ImportError as error:
    sys.exit(
        f'error: the page needs Flask ({error}); install it with: pip install "mask_former[web]"'
    )
from detectron2.utils.logger import setup_logger
from PIL import Image

from ..d2.command_line.arguments import add_opts_argument
from ..d2.command_line.importing import add_import_argument, import_code
from ..d2.errors import InputError
from ..d2.predictor import load_predictor
from ..d2.visualization.queries import Thresholds
from ..d2.visualization.saving import SUFFIXES, table
from ..demo.viewing import INSTANCE_SCORE, Model, View, glow

PAGE = Path(__file__).with_name("web.html")
WEIGHTS = Path("output", "shapes_demo", "train", "model_final.pth")
MEGABYTES = 64  # of a file


def parse_view(model: Model) -> View:
    """The view that a request names.

    Raises:
        InputError: an argument has no meaning.
    """
    task = request.args.get("task", model.tasks[0])
    if task not in model.tasks:
        raise InputError(f"task is {task!r}; this model can do {', '.join(model.tasks)}")

    def number(key: str, default: float) -> float:
        text = request.args.get(key, default)
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise InputError(f"{key} is {text!r}; give a number from 0 to 1")
        return value

    options = model.options
    thresholds = Thresholds(
        number("object_mask", options.object_mask_threshold),
        number("overlap", options.overlap_threshold),
    )
    score = number("score", INSTANCE_SCORE)
    classes = request.args.get("classes")
    if classes is None:
        return View(task, thresholds, score, None)
    given = [text for text in classes.split(",") if text]
    if not all(text.isdecimal() and int(text) < len(model.names) for text in given):
        raise InputError(f"classes is {classes!r}; give ids from 0 to {len(model.names) - 1}")
    return View(task, thresholds, score, frozenset(map(int, given)))


def create_app(model: Model) -> Flask:
    """What the page asks for; every refusal is one sentence, {"error": ...}."""
    app = Flask("mask_former", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MEGABYTES * 2**20
    app.register_error_handler(InputError, refuse)
    app.register_error_handler(HTTPException, refuse_http)

    @app.get("/")
    def page() -> Response:
        return send_file(PAGE)

    @app.get("/model")
    def describe() -> Response:
        return jsonify(model.describe() | {"megabytes": MEGABYTES})

    @app.post("/pictures")
    def take() -> Response:
        file = request.files.get("picture")
        if file is None:
            raise InputError("no picture has come; give one as the form's field 'picture'")
        with model.lock:
            key = model.take(Path(file.filename or "picture").name, BytesIO(file.read()))
        return jsonify(key=key)

    add_results(app, model)
    return app


def add_results(app: Flask, model: Model) -> None:
    """Gives the application what there is to see of a picture."""

    @app.get("/pictures/<key>/report")
    def report(key: str) -> Response:
        with model.lock:
            return jsonify(model.report(model.get(key), parse_view(model)))

    @app.get("/pictures/<key>/<any(picture, overlay, color, label, ids):kind>.png")
    def picture(key: str, kind: str) -> Response:
        with model.lock:
            held = model.get(key)
            drawn = model.picture(held, parse_view(model), kind)
        return send_picture(drawn, Path(held.name).stem + SUFFIXES.get(kind, f".{kind}.png"))

    @app.get("/pictures/<key>/result.json")
    def result(key: str) -> Response:
        with model.lock:
            held = model.get(key)
            response = jsonify(table(model.see(held, parse_view(model)).found, held.size))
        response.headers.set(
            "Content-Disposition", "attachment", filename=f"{Path(held.name).stem}.json"
        )
        return response

    @app.get("/pictures/<key>/queries/<int:query>.png")
    def mask(key: str, query: int) -> Response:
        with model.lock:
            held = model.get(key)
            if query >= len(held.inspection.class_logits):
                raise InputError(f"there is no query {query}")
            side = request.args.get("side", default=1024, type=int)
            drawn = glow(held.image, held.inspection.mask(query), min(max(side, 1), 4096))
        return send_picture(drawn, f"{Path(held.name).stem}.query{query}.png")


def refuse(error: InputError) -> tuple[Response, int]:
    """Bad input: its sentence."""
    return jsonify(error=InputError.sentence(error)), 400


def refuse_http(error: HTTPException) -> tuple[Response, int]:
    """What Flask refuses by itself, a file that is too large for one."""
    text = str(error.description)
    if error.code == 413:
        text = (
            f"the file has more than {MEGABYTES} MB, which the page does not take; make it smaller"
        )
    return jsonify(error=text), error.code or 500


def send_picture(picture: Image.Image, name: str) -> Response:
    """A PNG; with ``?download`` as a file to keep."""
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    file.seek(0)
    return send_file(file, "image/png", "download" in request.args, name)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Serve a page on which a model segments pictures, and tells what became of "
        "each query and why."
    )
    add = parser.add_argument
    add(
        "--weights",
        metavar="FILE",
        type=os.path.expanduser,
        help=f"a checkpoint; default: that of `mask_former shapes-demo`, {WEIGHTS}",
    )
    add(
        "--config-file",
        metavar="FILE",
        type=os.path.expanduser,
        help="YAML; needed only for weights that do not carry their configuration",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="address to serve on; default: %(default)s, this machine alone",
    )
    add("--port", type=int, default=7860, help="default: %(default)s; 0 takes a free one")
    add_import_argument(parser)
    add_opts_argument(parser)
    return parser.parse_args(argv)


def load_model(args: argparse.Namespace) -> Model:
    """The model of the command line.

    Raises:
        InputError: there are no weights, or they are bad.
    """
    weights = args.weights or str(WEIGHTS)
    if args.weights is None and not os.path.isfile(weights):
        raise InputError(
            f"there are no weights {weights}; run `mask_former shapes-demo`, which trains "
            "them in minutes, or name others with --weights FILE"
        )
    import_code(args.imports)
    return Model(load_predictor(args.config_file, weights, args.opts), os.path.basename(weights))


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until it is interrupted."""
    args = parse_args(argv)
    for name in ("detectron2", "mask_former"):
        setup_logger(name=name)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
    try:
        app = create_app(load_model(args))
    except InputError as error:
        sys.exit(f"error: {InputError.sentence(error)}")
    # Where the port is taken it says so, and ends.
    server = make_server(args.host, args.port, app, threaded=True)
    print(f"The page is at http://{args.host}:{server.port} (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)
