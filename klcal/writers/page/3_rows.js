// The table of tensors: sorted, filtered, some rows at a time, each with its figures behind a button.

const SOME = 100; // rows that are shown at first, and with each further press

const number = (title, get, show = text) => ({ title, get, show, number: true });

function columnsOf(report) {
  const has = (name) => report.rows.some((row) => isKnown(row[name]));
  const columns = [{ title: "name", get: (row) => labelOf(row), order: (row) => row.place }];
  if (report.rows.some((row) => row.status !== "ok")) columns.push({ title: "status", get: (row) => row.status });
  columns.push(number("SQNR dB", (row) => row.sqnr_db));
  if (report.baseline) {
    columns.push(
      number("was dB", (row) => was(row, "sqnr_db")),
      number("change dB", (row) => moved(row, "sqnr_db"), signed),
    );
  }
  if (has("units")) columns.push(number("worst unit dB", (row) => row.units && row.units.low));
  if (has("histogram"))
    columns.push({ title: "values", draw: (row) => (row.histogram ? spark(row.histogram.counts) : null) });
  columns.push(
    number(
      "scale",
      (row) => row.scale,
      (value) => text(value, 5),
    ),
  );
  if (report.baseline) {
    columns.push(
      number(
        "was scale",
        (row) => was(row, "scale"),
        (value) => text(value, 5),
      ),
    );
    columns.push(
      number(
        "scale change %",
        (row) => moved(row, "scale"),
        (value) => signed(isKnown(value) ? 100 * value : value),
      ),
    );
  }
  if (has("zero_point")) columns.push(number("zero point", (row) => row.zero_point, whole));
  columns.push(
    number("clipped %", (row) => row.clipped, percent),
    number("to zero %", (row) => row.rounded_to_zero, percent),
  );
  columns.push(number("kl", (row) => row.kl));
  if (new Set(report.rows.map((row) => row.source)).size > 1)
    columns.push({ title: "source", get: (row) => row.source });
  if (has("shape"))
    columns.push({ title: "shape", get: (row) => (row.shape || []).join("×"), order: (row) => row.numel });
  columns.push({ title: "from", get: (row) => row.dtype }, { title: "to", get: (row) => row.target });
  return columns;
}

const labelOf = (row) => row.label || row.name;
const was = (row, field) => row.change && row.change.was && row.change.was[field];
const moved = (row, field) => row.change && row.change.d && row.change.d[field];

function compared(column, one, other) {
  const [a, b] = [one, other].map(column.order || column.get);
  if (!isKnown(a) || !isKnown(b)) return isKnown(b) - isKnown(a); // what is not known comes last
  return a < b ? -1 : a > b ? 1 : 0;
}

class Rows {
  constructor(report, table, count, buttons) {
    Object.assign(this, { report, table, count, buttons });
    this.columns = columnsOf(report);
    this.sorted = { column: this.columns.findIndex((column) => column.title === "SQNR dB"), down: false };
    this.filter = { query: "", status: "", below: null, prefix: null };
    this.open = new Set();
    this.shown = SOME;
    this.ranked = report.rows.map((row, place) => place);
    this.texts = report.rows.map((row) => `${row.source}/${labelOf(row)}`.toLowerCase());
    this.head();
    this.rank();
  }

  head() {
    this.headers = this.columns.map((column, place) =>
      element(
        "th",
        { scope: "col", class: column.number ? "number" : "" },
        column.draw
          ? column.title
          : element("button", { type: "button", onclick: () => this.sort(place) }, column.title),
      ),
    );
    this.body = element("tbody");
    this.table.append(element("thead", null, element("tr", null, ...this.headers)), this.body);
  }

  sort(place) {
    const isSame = this.sorted.column === place;
    this.sorted = { column: place, down: isSame ? !this.sorted.down : false };
    this.shown = SOME;
    this.rank();
  }

  rank() {
    const column = this.columns[this.sorted.column],
      sign = this.sorted.down ? -1 : 1,
      rows = this.report.rows;
    const get = column.order || column.get;
    const known = [],
      rest = [];
    for (const place of rows.keys()) (isKnown(get(rows[place])) && get(rows[place]) !== "" ? known : rest).push(place);
    known.sort((a, b) => sign * compared(column, rows[a], rows[b]) || a - b);
    this.ranked = known.concat(rest);
    this.headers.forEach((header, each) => {
      if (each === this.sorted.column) header.setAttribute("aria-sort", this.sorted.down ? "descending" : "ascending");
      else header.removeAttribute("aria-sort");
    });
    this.choose();
  }

  set(change) {
    Object.assign(this.filter, change);
    this.shown = SOME;
    this.choose();
  }

  choose() {
    const { query, status, below, prefix } = this.filter,
      wanted = query.toLowerCase();
    this.view = this.ranked.filter((place) => {
      const row = this.report.rows[place];
      if (status && row.status !== status && !(row.change && row.change.status === status)) return false;
      if (below !== null && !(row.sqnr_db < below)) return false;
      if (prefix !== null && !labelOf(row).startsWith(prefix)) return false;
      return !wanted || this.texts[place].includes(wanted);
    });
    this.draw();
  }

  draw() {
    const places = this.view.slice(0, this.shown);
    this.body.replaceChildren(...places.flatMap((place) => this.lines(place)));
    const { rows } = this.report;
    const order = `by ${this.columns[this.sorted.column].title}, ${this.sorted.down ? "greatest" : "least"} first`;
    const some = places.length < this.view.length ? `The first ${whole(places.length)} of ` : "";
    this.count.textContent = `${some}${whole(this.view.length)} of ${whole(rows.length)} tensors, ${order}.`;
    for (const button of this.buttons) button.hidden = places.length === this.view.length;
  }

  more(all) {
    this.shown = all ? this.view.length : this.shown + SOME;
    this.draw();
  }

  lines(place) {
    const row = this.report.rows[place],
      isOpen = this.open.has(place);
    const cells = this.columns.slice(1).map((column) => {
      if (column.draw) return element("td", null, column.draw(row));
      const value = column.get(row);
      return element(
        "td",
        { class: column.number ? "number" : column.title === "status" && row.failed ? "failed" : "" },
        column.show ? column.show(value) : text(value),
      );
    });
    const button = element(
      "button",
      { type: "button", "aria-expanded": String(isOpen), onclick: () => this.toggle(place, button) },
      labelOf(row) || "(no name)",
    );
    const line = element("tr", { "data-place": place }, element("th", { scope: "row" }, button), ...cells);
    return isOpen ? [line, this.details(place)] : [line];
  }

  toggle(place, button) {
    const line = button.closest("tr"),
      isOpen = this.open.has(place);
    if (isOpen) {
      this.open.delete(place);
      line.nextElementSibling.remove();
    } else {
      this.open.add(place);
      line.after(this.details(place));
    }
    button.setAttribute("aria-expanded", String(!isOpen));
  }

  details(place) {
    return element(
      "tr",
      { class: "details" },
      element(
        "td",
        { colspan: this.columns.length },
        element("div", { class: "inner" }, ...detailsOf(this.report.rows[place])),
      ),
    );
  }
}

// What stands behind the button of a row.
function detailsOf(row) {
  const known = row.explanation,
    figures = [],
    parts = [];
  for (const said of row.words || []) parts.push(element("p", null, said));
  if (row.reason) parts.push(element("p", { class: row.failed ? "failed" : "" }, row.reason));
  if (row.note) parts.push(element("p", null, row.note));
  if (row.histogram) figures.push(histogramFigure(row, known));
  if (row.units && row.units.cells.some(isKnown)) figures.push(stripFigure(row.units));
  if (known && known.curve && isKnown(known.curve.loss[known.curve.chosen])) figures.push(curveFigure(known));
  if (figures.length) parts.push(element("div", { class: "figures" }, ...figures));
  if (known && known.methods) parts.push(element("div", { class: "figures" }, methodsTable(known), nearbyTable(known)));
  if (row.change) parts.push(changeTable(row));
  if (row.histogram && !known && !row.units)
    parts.push(
      element("p", null, "klcal explain shows what candidates lose; here only the tensors that lose most have it."),
    );
  return parts.length ? parts : [element("p", null, "Nothing more is known of it: the report was made of a table.")];
}

function grid(caption, titles, rows) {
  const cells = (line) =>
    line.map((cell, place) =>
      place ? element("td", { class: "number" }, cell) : element("th", { scope: "row" }, cell),
    );
  const head = titles.map((title, place) => element("th", { scope: "col", class: place ? "number" : "" }, title));
  const table = element(
    "table",
    { "aria-label": caption },
    element("thead", null, element("tr", null, ...head)),
    element("tbody", null, ...rows.map((line) => element("tr", null, ...cells(line)))),
  );
  return element(
    "div",
    { class: "grid", role: "group", "aria-label": caption, tabindex: "0" },
    element("p", null, caption),
    table,
  );
}

function methodsTable(known) {
  const rows = known.methods.map((each, place) => [
    `${place ? `${LETTERS[place - 1]}: ` : "chosen: "}${each.method}`,
    text(each.scale, 5),
    text(each.zero_point),
    text(each.loss),
    isKnown(each.sqnr_db) ? text(each.sqnr_db) : "no error",
    percent(each.clipped),
    percent(each.rounded_to_zero),
  ]);
  return grid(
    "What methods choose, and what it costs",
    ["method", "scale", "zero point", "loss", "SQNR dB", "clipped %", "to zero %"],
    rows,
  );
}

function nearbyTable(known) {
  const chosen = known.methods[0];
  const rows = known.nearby.map((each) => [
    `scale ${signed(100 * each.change)} %`,
    text(chosen.scale * (1 + each.change), 5),
    text(each.loss),
    text(each.sqnr_db),
    text(chosen.sqnr_db),
  ]);
  for (const each of known.without) {
    rows.push([
      `without the largest ${percent(each.share)} % (${whole(each.count)})`,
      text(each.scale, 5),
      "",
      text(each.sqnr_db),
      text(each.sqnr_db_as_is),
    ]);
  }
  return grid("What if", ["change", "scale", "loss", "SQNR dB", "in place of"], rows);
}

function changeTable(row) {
  const fields = Object.keys(row.change.was || {});
  const now = row.change.status === "missing" ? {} : row;
  const rows = fields.map((field) => [
    field,
    text(row.change.was[field], 5),
    text(now[field], 5),
    signed(moved(row, field)),
  ]);
  return grid(`Against the baseline: ${row.change.status}`, ["field", "was", "is", "change"], rows);
}
