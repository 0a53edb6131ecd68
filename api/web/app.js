// The page speaks the same API as everybody: POST /jobs, then the job's events until it is done.

const POLL_MS = 500;
const STATUS_MS = 4000;
const MOST_STREAMS = 2; // a browser opens six connections to a server, over all its tabs
const REMEMBERED_JOBS = 12;
const ENDS = ["succeeded", "failed", "canceled", "expired"];
const $ = (id) => document.getElementById(id);
const form = $("order");

let models = [];
let streams = 0;

class Problem extends Error {
  constructor(status, body) {
    super(body.detail || "the farm gave no reason");
    this.status = status;
    this.errors = body.errors || [];
    this.requestId = body.request_id;
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  const response = await fetch(path, { ...options, headers });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(response.status, body);
  return body;
}

// --- the form

async function loadModels() {
  try {
    models = (await call("models")).data;
  } catch (error) {
    if (error.status === 401) askForKey();
    return showProblem(error);
  }
  const chosen = $("model").value;
  $("model").replaceChildren(...models.map(({ id, title }) => new Option(title ? `${id}: ${title}` : id, id)));
  $("model").value = (models.find(({ id }) => id === chosen) || models.find((m) => m.default)).id;
  showModel();
  clearFaults();
}

function showModel() {
  const model = models.find(({ id }) => id === $("model").value);
  if (!model) return;
  const { width, height, steps } = model.defaults;
  $("banner").hidden = !model.random_weights;
  $("size").placeholder = `${width}x${height}`;
  $("steps").placeholder = steps;
  $("steps").max = model.limits.max_steps;
  $("n").max = model.limits.max_n;
  const wide = `${width + 256}x${height}`;
  const tall = `${width}x${height + 256}`;
  $("sizes").replaceChildren(...[`${width}x${height}`, wide, tall].map((size) => new Option(size)));
}

// A form where a picture goes along, else JSON.
function readOrder() {
  const said = [...new FormData(form)].filter(([, value]) => value !== "" && value.size !== 0);
  if (said.some(([, value]) => value instanceof File)) {
    const body = new FormData();
    for (const [name, value] of said) body.append(name, value);
    return { body };
  }
  const order = {};
  for (const [name, text] of said) {
    // What is no number goes as it is: the farm says what is wrong with it.
    const isNumber = form.elements[name].type === "number" && Number.isFinite(Number(text));
    order[name] = isNumber ? Number(text) : text;
  }
  return { headers: { "Content-Type": "application/json" }, body: JSON.stringify(order) };
}

async function submit(event) {
  event.preventDefault();
  clearFaults();
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  try {
    const job = await call("jobs", { method: "POST", ...readOrder() });
    remember(job.id);
    follow(job);
  } catch (error) {
    if (error.status === 401) askForKey();
    showProblem(error);
  } finally {
    button.disabled = false;
  }
}

function showProblem(error) {
  const shown = new Set();
  for (const { pointer, detail } of error.errors || []) {
    const name = (pointer || "").replace("#/", "");
    const field = form.elements[name];
    if (!field || !$(`${name}-fault`)) continue;
    const fold = field.closest("details");
    if (fold) fold.open = true;
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", `${name}-fault`);
    $(`${name}-fault`).textContent = detail;
    shown.add(name);
  }
  $("problem").textContent = error.requestId
    ? `${error.message} (request ${error.requestId})`
    : `The farm cannot be reached: ${error.message}`;
  $("problem").hidden = false;
  const [first] = shown;
  if (first) form.elements[first].focus();
}

function clearFaults() {
  $("problem").hidden = true;
  for (const fault of form.querySelectorAll(".fault")) fault.textContent = "";
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
}

function askForKey() {
  $("access").open = true;
  $("key").focus();
}

// --- the jobs

function follow(job) {
  const card = $("job").content.firstElementChild.cloneNode(true);
  card.dataset.job = job.id;
  card.querySelector("h2").textContent = job.input.prompt;
  card.querySelector("h2").title = job.input.prompt;
  card.setAttribute("aria-label", `Job: ${job.input.prompt.slice(0, 80)}`);
  card.querySelector(".images").append(...job.images.map(makeImage));
  card.querySelector("button").addEventListener("click", () => cancel(card, job.id));
  $("jobs").prepend(card);
  watch(card, job);
}

function watch(card, job) {
  if (job.done || streams === MOST_STREAMS || !window.EventSource) return poll(card, job);
  showJob(card, job);
  streams += 1;
  const source = new EventSource(here(job.urls.events));
  const leave = () => {
    source.close();
    streams -= 1;
  };
  const told = (name, change) =>
    source.addEventListener(name, (event) => {
      job = change(job, JSON.parse(event.data));
      showJob(card, job);
      if (job.done) leave();
    });
  for (const name of ["snapshot", "queued", "running", ...ENDS]) told(`job.${name}`, (_, now) => now);
  for (const name of ["succeeded", "failed", "canceled"]) told(`image.${name}`, withImage);
  told("image.running", (seen, image) => withImage(seen, { ...image, began: performance.now() }));
  told("image.progress", (seen, { index, step, steps }) =>
    withImage(seen, { ...seen.images[index], progress: { step, steps } }));
  told("job.position", (seen, { position, eta_s }) => ({ ...seen, queue_position: position, eta_s }));
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) return; // it comes back by itself
    leave();
    poll(card, job);
  });
}

function withImage(job, image) {
  const images = job.images.map((old) => (old.index === image.index ? image : old));
  const images_done = images.filter(({ status }) => ENDS.includes(status)).length;
  return { ...job, images, eta_s: etaOf(images), progress: { ...job.progress, images_done } };
}

// Seconds until the slowest image is done, at the pace of its steps; null while any has made none.
function etaOf(images) {
  const left = images.filter(({ status }) => !ENDS.includes(status)).map(({ began, progress }) =>
    began && progress.step ? (performance.now() - began) * (progress.steps / progress.step - 1) / 1000 : NaN);
  const slowest = Math.max(...left);
  return Number.isFinite(slowest) ? slowest : null;
}

async function poll(card, job) {
  while (true) {
    showJob(card, job);
    if (job.done) return;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    try {
      job = await call(`jobs/${job.id}`);
      showCardProblem(card, job.error && job.error.message);
    } catch (error) {
      showCardProblem(card, error.message);
      if (error.status === 404 || error.status === 401) return;
    }
  }
}

async function cancel(card, id) {
  card.querySelector("button").disabled = true;
  try {
    showJob(card, await call(`jobs/${id}/cancel`, { method: "POST" }));
  } catch (error) {
    if (error.status !== 409) showCardProblem(card, error.message);
  }
}

function showJob(card, job) {
  const { images_done: done, images } = job.progress;
  const words = { queued: "queued", running: `${done} of ${images} done`, succeeded: "done" };
  const eta = job.eta_s === null || job.done ? "" : `, about ${Math.ceil(job.eta_s)} s`;
  const state = `${words[job.status] || job.status}${job.cached ? ", from the cache" : ""}${eta}`;
  const line = card.querySelector(".state");
  if (line.textContent !== state) line.textContent = state;
  card.dataset.status = job.status;
  card.querySelector("button").hidden = job.done;
  showCardProblem(card, job.error && job.error.message);
  job.images.forEach((image, at) => showImage(card.querySelectorAll("figure")[at], image, job));
}

function showCardProblem(card, text) {
  const line = card.querySelector(".problem");
  line.hidden = !text;
  line.textContent = text || "";
}

function makeImage({ index, seed }) {
  const figure = $("image").content.firstElementChild.cloneNode(true);
  figure.querySelector("progress").setAttribute("aria-label", `Progress of image ${index + 1}`);
  figure.querySelector(".seed").textContent = `seed ${seed}`;
  return figure;
}

function showImage(figure, image, job) {
  if (image.url) return showPicture(figure, image, job);
  const { step, steps } = image.progress;
  const place = job.queue_position ? `, ${job.queue_position} ahead` : ", next in line";
  const words = { queued: `queued${place}`, running: `step ${step} of ${steps}`, storing: "storing" };
  figure.querySelector(".frame p").textContent = words[image.status] || image.status;
  figure.querySelector("progress").hidden = !(image.status in words);
  figure.querySelector("progress").value = step / steps;
}

function showPicture(figure, image, job) {
  if (figure.querySelector("img")) return;
  const picture = new Image(image.width, image.height);
  picture.src = here(image.url);
  picture.alt = `${job.input.prompt}, seed ${image.seed}`;
  figure.querySelector(".frame").replaceChildren(picture);
  const link = figure.querySelector("a");
  link.href = picture.src;
  link.download = ""; // the farm names the file
  link.setAttribute("aria-label", `Download image ${image.index + 1}, seed ${image.seed}`);
  link.hidden = false;
}

// The page may load pictures from its own origin only, and this farm is that origin.
function here(url) {
  const { pathname, search } = new URL(url);
  return pathname + search;
}

// A reload finds the jobs of this tab again.
function remembered() {
  return JSON.parse(sessionStorage.getItem("jobs") || "[]");
}

function remember(id) {
  sessionStorage.setItem("jobs", JSON.stringify([...remembered(), id].slice(-REMEMBERED_JOBS)));
}

async function recall() {
  for (const id of remembered()) {
    try {
      follow(await call(`jobs/${id}`));
    } catch {
      // forgotten by the farm: nothing to show
    }
  }
}

// --- the farm

async function showFarm() {
  let state = "away";
  let words = "the farm does not answer";
  try {
    const status = await call("status");
    const ready = status.models.flatMap(({ workers }) => workers).filter(isReady).length;
    state = status.ready ? "ready" : "waiting";
    words = status.ready ? `${ready} worker${ready === 1 ? "" : "s"} ready` : status.reason;
  } catch {
    // said already
  }
  $("farm").dataset.state = state;
  if ($("farm").textContent !== words) $("farm").textContent = words;
  setTimeout(showFarm, STATUS_MS);
}

function isReady({ state }) {
  return state === "ready" || state === "busy";
}

$("key").value = sessionStorage.getItem("key") || "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("key", $("key").value);
  loadModels();
});
$("model").addEventListener("change", showModel);
form.addEventListener("submit", submit);
showFarm();
loadModels().then(recall);
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
