"""The process that compares symbolic answers; a program by itself, without our packages.

It reads a JSON line [answer, other answer] and writes one [whether they are the same]. Only LaTeX
is parsed, by a grammar: math-verify's other extractor, of plain arithmetic, goes through SymPy's
`parse_expr`, which evaluates.
"""

import json
import os
import resource
import sys

_MEMORY = 4 * 2**30  # bytes of address space


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    from math_verify import LatexExtractionConfig, parse, verify  # past the limit of memory

    # the library announces and raises at will: the pipe is kept for replies alone
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options = dict(
        extraction_config=[LatexExtractionConfig()], parsing_timeout=None, raise_on_error=False
    )

    def reply(message: list) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    reply(["ready"])
    for line in sys.stdin:
        answers = json.loads(line)
        try:
            given, right = (parse(f"${answer.strip('$ ')}$", **options) for answer in answers)
            same = bool(given and right) and verify(right, given, timeout_seconds=None)
        except Exception:  # whatever a text provokes, it is wrong
            same = False
        reply([bool(same)])


if __name__ == "__main__":
    main()
