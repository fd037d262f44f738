// Figures: the numbers of the data, drawn. Each has a label that says what it shows.

const LETTERS = "abcdefgh";
const TOP = 2.5; // of a curve: times the loss of the choice

// Heights from 0 to 1, of which equal steps are equal factors.
function logarithms(counts) {
  const most = Math.log1p(Math.max(...counts, 1));
  return counts.map((count) => Math.log1p(count) / most);
}

// A bar for each count, as one path: thousands of them are shown at once.
function spark(counts, width = 96, height = 20) {
  const each = width / counts.length;
  const path = logarithms(counts)
    .map((share, place) => {
      const top = share ? Math.min(height - height * share, height - 1) : height;
      return share ? `M${(place * each).toFixed(1)} ${height}V${top.toFixed(1)}h${each.toFixed(2)}V${height}z` : "";
    })
    .join("");
  const found = svg(width, height, "", drawing("path", { d: path, class: "values" }));
  found.setAttribute("class", "spark");
  return found;
}

const FRAME = { width: 480, height: 170, left: 4, top: 14, bottom: 20 };

function frame(label, ...children) {
  return svg(FRAME.width, FRAME.height, label, ...children);
}

function captioned(caption, drawn) {
  return element("figure", null, drawn, element("figcaption", null, caption));
}

function histogramFigure(row, known) {
  const { low, high, counts } = row.histogram;
  const { width, height, left, top, bottom } = FRAME;
  const inner = width - 2 * left,
    floor = height - bottom,
    span = high - low || 1;
  const each = inner / counts.length;
  const x = (value) => left + Math.min(Math.max((value - low) / span, 0), 1) * inner;
  const parts = [];
  if (isKnown(row.low)) {
    parts.push(
      drawing("rect", {
        class: "kept",
        x: x(row.low),
        y: top,
        width: Math.max(x(row.high) - x(row.low), 1),
        height: floor - top,
      }),
    );
  }
  const levels = (known && known.levels) || [];
  if (levels.length && levels.length <= 64) {
    for (const level of levels) {
      if (level >= low && level <= high)
        parts.push(drawing("line", { class: "level", x1: x(level), x2: x(level), y1: top, y2: floor }));
    }
  }
  logarithms(counts).forEach((share, place) => {
    if (!share) return;
    const tall = Math.max(share * (floor - top), 1);
    const from = low + (place * span) / counts.length,
      to = low + ((place + 1) * span) / counts.length;
    parts.push(
      drawing(
        "rect",
        { class: "values", x: left + place * each, y: floor - tall, width: Math.max(each - 0.5, 0.5), height: tall },
        drawing(
          "title",
          { "data-count": counts[place] },
          `${whole(counts[place])} values from ${text(from)} to ${text(to)}`,
        ),
      ),
    );
  });
  parts.push(drawing("path", { class: "axis", d: `M${left} ${floor}h${inner}` }));
  parts.push(drawing("text", { x: left, y: height - 6 }, text(low)));
  parts.push(drawing("text", { x: width - left, y: height - 6, "text-anchor": "end" }, text(high)));
  const kept = isKnown(row.low) ? ` The range from ${text(row.low)} to ${text(row.high)} is kept.` : "";
  const label = `Histogram of the values from ${text(low)} to ${text(high)}, numbers on a logarithmic scale.${kept}`;
  return captioned(
    `Values, their numbers on a logarithmic scale${kept ? "; the kept range is shaded" : ""}`,
    frame(label, ...parts),
  );
}

function curveFigure(known) {
  const curve = known.curve,
    chosen = curve.loss[curve.chosen];
  const { width, height, left, top, bottom } = FRAME;
  const inner = width - 2 * left,
    floor = height - bottom;
  const first = Math.log(curve.scale[0]),
    span = Math.log(curve.scale[curve.scale.length - 1]) - first || 1;
  const limit = Math.min(Math.max(...curve.loss.filter(isKnown), 0), TOP * chosen) || 1;
  const x = (scale) => left + ((Math.log(Math.abs(scale)) - first) / span) * inner;
  const y = (loss) => floor - (Math.min(Math.max(loss, 0), limit) / limit) * (floor - top);
  const lower = curve.scale.map((_, place) => (known.objective === "mse" ? 0 : curve.divergence[place] || 0));
  const upper = curve.scale.map(
    (_, place) => lower[place] + (isKnown(curve.distortion[place]) ? curve.distortion[place] : limit),
  );
  const area = (below, above, name) => {
    const there = above.map((value, place) => `${x(curve.scale[place]).toFixed(1)} ${y(value).toFixed(1)}`);
    const back = below.map((value, place) => `${x(curve.scale[place]).toFixed(1)} ${y(value).toFixed(1)}`).reverse();
    return drawing("path", { class: name, d: `M${there.join("L")}L${back.join("L")}z` });
  };
  const zero = lower.map(() => 0);
  const line = curve.loss.map(
    (loss, place) => `${x(curve.scale[place]).toFixed(1)} ${y(isKnown(loss) ? loss : limit).toFixed(1)}`,
  );
  const parts = [
    area(lower, upper, "distortion"),
    area(zero, lower, "divergence"),
    drawing("path", { class: "loss", d: `M${line.join("L")}` }),
  ];
  known.methods.slice(1).forEach((each, place) => {
    if (!isKnown(each.loss)) return;
    parts.push(
      drawing(
        "circle",
        { class: "other", cx: x(each.scale), cy: y(each.loss), r: 2.5 },
        drawing("title", null, each.method),
      ),
    );
    parts.push(
      drawing(
        "text",
        { class: "mark", x: x(each.scale), y: y(each.loss) - 5, "text-anchor": "middle" },
        LETTERS[place],
      ),
    );
  });
  parts.push(
    drawing(
      "circle",
      { class: "chosen", cx: x(curve.scale[curve.chosen]), cy: y(chosen), r: 4 },
      drawing(
        "title",
        { "data-loss": chosen },
        `the choice: scale ${text(curve.scale[curve.chosen])}, loss ${text(chosen)}`,
      ),
    ),
  );
  parts.push(drawing("path", { class: "axis", d: `M${left} ${floor}h${inner}` }));
  parts.push(drawing("text", { x: left, y: height - 6 }, `scale ${text(curve.scale[0])}`));
  parts.push(
    drawing(
      "text",
      { x: width - left, y: height - 6, "text-anchor": "end" },
      text(curve.scale[curve.scale.length - 1]),
    ),
  );
  parts.push(drawing("text", { x: left, y: 10 }, text(limit)));
  const what = known.objective ? "What candidates lose" : "What candidates lose (the method does not look at it)";
  const label = `${what}, by scale from ${text(curve.scale[0])} to ${text(curve.scale[curve.scale.length - 1])}. The choice is ${text(curve.scale[curve.chosen])}, with the loss ${text(chosen)}.`;
  return captioned(
    `${what}: the divergence below, the distortion on it, in nats; the dot is the choice`,
    frame(label, ...parts),
  );
}

// The worst SQNR of some neighbouring units each: a strip of bars, from the worst of all to the best.
function stripFigure(units) {
  const known = units.cells.filter(isKnown);
  const width = 480,
    height = 60,
    floor = height - 4,
    each = width / units.cells.length;
  const low = Math.min(...known),
    span = Math.max(...known) - low || 1;
  const bars = units.cells.map((value, place) => {
    if (!isKnown(value)) return null;
    const tall = 6 + ((value - low) / span) * (floor - 8);
    const range =
      units.each > 1
        ? `units ${place * units.each} to ${Math.min((place + 1) * units.each, units.number) - 1}`
        : `unit ${place}`;
    return drawing(
      "rect",
      { class: "values", x: place * each, y: floor - tall, width: Math.max(each - 0.5, 0.5), height: tall },
      drawing("title", { "data-db": value }, `${range}: ${text(value)} dB`),
    );
  });
  const label = `SQNR of ${whole(units.number)} units, from ${text(low)} to ${text(low + span)} dB.`;
  const many = units.each > 1 ? `, the worst of ${units.each} neighbours each` : "";
  return captioned(
    `SQNR of ${whole(units.number)} units (${units.per})${many}: ${text(low)} to ${text(low + span)} dB`,
    svg(width, height, label, ...bars),
  );
}

// How many tensors have which SQNR.
function overviewFigure(bins, step, first) {
  const { width, height, left, top, bottom } = FRAME;
  const inner = width - 2 * left,
    floor = height - bottom,
    each = inner / bins.length,
    most = Math.max(...bins, 1);
  const parts = bins.flatMap((count, place) => {
    const tall = (count / most) * (floor - top),
      from = first + place * step;
    const bar = drawing(
      "rect",
      { class: "values", x: left + place * each, y: floor - tall, width: Math.max(each - 1, 1), height: tall },
      drawing("title", { "data-count": count }, `${whole(count)} tensors from ${from} to ${from + step} dB`),
    );
    const named = bins.length <= 16 || place % 2 === 0;
    return named ? [bar, drawing("text", { x: left + place * each, y: height - 6 }, from)] : [bar];
  });
  parts.push(drawing("path", { class: "axis", d: `M${left} ${floor}h${inner}` }));
  const label = `Histogram of the SQNR of the tensors, in bins of ${step} dB from ${first} dB on: ${bins.join(", ")}.`;
  return captioned(`How many tensors have which SQNR, in dB`, frame(label, ...parts));
}
