"""Serve the page, with the two headers without which a browser gives it a single thread.

    (cd examples/web && npm install --ignore-scripts)
    python examples/web/serve.py

Any other static server will do, such as ``python -m http.server``: then on one thread.
"""

import argparse
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Isolated(SimpleHTTPRequestHandler):
    """Files, with the headers of cross-origin isolation, which onnxruntime-web's threads need."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",  # systems differ in the types they know
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    handler = partial(Isolated, directory=Path(__file__).parent)
    with ThreadingHTTPServer(("127.0.0.1", args.port), handler) as server:  # this machine only
        print(f"http://localhost:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
