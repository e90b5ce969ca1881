"""The README's chart: speeds measured side by side, from the newest files of `benchmarks/results`.

python -m benchmarks.chart
"""

import json

import matplotlib.pyplot as plt

from benchmarks import newest

OURS, OTHERS = "#004488", "#BBBBBB"


def panels() -> dict[str, dict[str, float]]:
    markets = json.loads(newest("headline_2_cores.json").read_text())
    decoder = json.loads(newest("decoder.json").read_text())["tokens_per_second"]
    return {
        "markets per second, both rules": {
            "mechlab": markets["lab_markets_per_second"],
            "NumPy, vectorised": markets["numpy_markets_per_second"],
            "plain Python loop": markets["loop_markets_per_second"],
        },
        "tokens per second, SmolLM2, 64 samples": {
            "mechlab's models": decoder["ours"],
            "PyTorch generate": decoder["torch"],
            "llama.cpp": decoder["llama_cpp"],
        },
    }


def main() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 1.9), layout="constrained")
    for axis, (title, bars) in zip(axes, panels().items(), strict=True):
        ours = next(iter(bars.values()))
        drawn = axis.barh(list(bars), list(bars.values()), color=[OURS, OTHERS, OTHERS])
        told = [f"   mechlab: {ours / value:.3g} times" for value in bars.values()]
        labels = [f"{value:,.0f}{times}" for value, times in zip(bars.values(), told, strict=True)]
        labels[0] = f"{ours:,.0f}"
        axis.bar_label(drawn, labels, padding=4)
        axis.invert_yaxis()
        axis.set(title=title, xticks=[], xlim=(0, ours * 1.45))
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig("docs/images/speed.png", dpi=130)


if __name__ == "__main__":
    main()
