"""How pictures look: legible in grey print and for the colour-blind."""

# Okabe and Ito (2008), "Color Universal Design", without the yellow that white paper swallows; then
# a grey, and two dark colours of P. Tol's "Colour Schemes" (2021).
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"),
    *("#8C8C8C", "#882255", "#332288"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h")
LINE_STYLES = ("-", (0, (6, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)), (0, (4, 1, 1, 1, 1, 1)))


def line_look(i):
    """Colour, dashes and marker of the i-th line; no two of the first five share one."""
    return {
        "color": COLORS[i % len(COLORS)],
        "linestyle": LINE_STYLES[i % len(LINE_STYLES)],
        "linewidth": 2.0,
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 6.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
    }


def dress_axes(ax):
    ax.tick_params(labelsize=11)
    ax.grid(color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def draw_legend(ax, lines, **kwargs):
    """Beside the axes, where it hides nothing."""
    ax.legend(
        handles=lines,
        fontsize=11,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        **kwargs,
    )
