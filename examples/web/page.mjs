// The page: loads an ONNX file of levit-deploy and a picture, and shows the five likeliest classes.
//
//     (cd examples/web && npm install --ignore-scripts)
//     python examples/web/serve.py
//
// `?model=` and `?picture=` name files on the page's own server. `?repeat=20` shows the median time
// of 20 runs. Without the two headers that serve.py sends, onnxruntime-web runs on one thread.

import { channelsOf, fit, normalise, readMetadata } from './prepare.mjs';

const RUNTIME = './node_modules/onnxruntime-web/dist/ort.wasm.min.mjs';
const SHOWN = 5;
const asked = new URLSearchParams(location.search);
const REPEAT = Math.max(1, Number(asked.get('repeat')) || 1);
const $ = (id) => document.getElementById(id);

let ort = null; // onnxruntime-web
let network = null; // what `load` gave last
let picture = null; // the file or frame that was chosen last, with its name

// --- the network ---

async function runtime() {
  if (ort) return ort;
  try {
    ort = await import(RUNTIME);
  } catch {
    throw new Error(
      'onnxruntime-web is not beside this page. In examples/web, run: npm install --ignore-scripts',
    );
  }
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  return ort;
}

/** A session with what the file says of itself. Throws, in words, if it gives no classes. */
async function load(bytes, name) {
  let metadata;
  try {
    metadata = readMetadata(bytes);
  } catch (error) {
    throw new Error(`${name} is no ONNX file: ${error.message}. Choose one that ends in .onnx.`);
  }
  if (!metadata.tool?.startsWith('levit-deploy ') || !metadata.preprocessing) {
    throw new Error(
      `${name} does not say how pictures are prepared for it. ` +
        'Choose a file that levit-deploy exported.',
    );
  }
  const output = metadata.output ?? 'logits';
  if (output !== 'logits' && output !== 'probabilities') {
    throw new Error(`${name} gives ${output}, and no classes. Export it without --output-type.`);
  }
  if ((metadata.problem_type || 'single_label_classification') !== 'single_label_classification') {
    throw new Error(`${name} is for ${metadata.problem_type}, not for one class of several.`);
  }
  const how = JSON.parse(metadata.preprocessing);
  if (how.unsupported) {
    throw new Error(`Pictures cannot be prepared for ${name}: ${how.unsupported}.`);
  }

  const { InferenceSession } = await runtime();
  let session;
  try {
    session = await InferenceSession.create(bytes);
  } catch (error) {
    throw new Error(`onnxruntime-web cannot run ${name}: ${error.message}`);
  }
  const isBytes = metadata.input === 'uint8';
  const [batch, ...shape] = session.inputMetadata[0].shape;
  const [height, width, channels] = isBytes ? shape : [shape[1], shape[2], shape[0]];
  if (channels !== 1 && channels !== 3) {
    throw new Error(`${name} takes images of ${channels} channels, and a picture has 1 or 3.`);
  }
  return {
    name,
    session,
    how,
    isBytes,
    image: { height, width, channels },
    batch: typeof batch === 'number' ? batch : 1,
    gives: output,
    labels: JSON.parse(metadata.labels || '[]'),
    precision: metadata.precision ?? 'fp32',
  };
}

function about({ name, image, precision, how }) {
  const { numThreads } = ort.env.wasm;
  const threads = numThreads === 1 ? 'one thread' : `${numThreads} threads`;
  const why = crossOriginIsolated ? '' : ' (serve.py allows more)';
  const assumed = 'No config said how pictures are prepared. It is as for ImageNet.';
  const colours = image.channels === 1 ? 'grey' : 'colours';
  return (
    `${name}: ${precision}, ${image.width} by ${image.height} pixels in ${colours}, ` +
    `on ${threads}${why}. ${how.assumed ? assumed : ''}`
  );
}

/** The classes of an image from `fit`, the likeliest first. */
async function classify({ session, how, isBytes, batch, gives, labels }, image) {
  const one = isBytes ? image.data : normalise(image, how);
  const all = new one.constructor(batch * one.length);
  for (let i = 0; i < batch; i++) all.set(one, i * one.length);
  const { height, width, channels } = image;
  const shape = isBytes ? [batch, height, width, channels] : [batch, channels, height, width];
  const input = new ort.Tensor(isBytes ? 'uint8' : 'float32', all, shape);
  const outputs = await session.run({ [session.inputNames[0]]: input });
  const { data, dims } = outputs[session.outputNames[0]];
  const scores = Array.from(data.slice(0, dims[1]));
  return (gives === 'logits' ? softmax(scores) : scores)
    .map((probability, index) => ({ index, label: labels[index] ?? `class ${index}`, probability }))
    .sort((one, other) => other.probability - one.probability);
}

function softmax(logits) {
  const most = logits.reduce((one, other) => Math.max(one, other));
  const exponentials = logits.map((logit) => Math.exp(logit - most));
  const sum = exponentials.reduce((one, other) => one + other, 0);
  return exponentials.map((exponential) => exponential / sum);
}

// --- the picture ---

// As the file stores it: no colour management, and the colours behind transparency as they are.
const AS_STORED = { colorSpaceConversion: 'none', premultiplyAlpha: 'none' };
const STRIP = 2 ** 22; // pixels read at once: phones have small canvases

/** The pixels of a file or a frame, upright, its alpha left out, as `fit` takes them. */
async function pixelsOf({ source, name }, channels) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(source, AS_STORED);
  } catch {
    throw new Error(`This browser cannot read ${name} as a picture. Choose a PNG or JPEG file.`);
  }
  const { height, width } = bitmap;
  const data = new Uint8ClampedArray(height * width * channels);
  const rows = Math.ceil(STRIP / width);
  for (let top = 0; top < height; top += rows) {
    const left = Math.min(rows, height - top);
    const strip = await createImageBitmap(bitmap, 0, top, width, left, AS_STORED);
    data.set(channelsOf(rgbaOf(strip, name), channels), top * width * channels);
    strip.close();
  }
  bitmap.close();
  return { height, width, channels, data };
}

function rgbaOf(bitmap, name) {
  const { height, width } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  for (let i = 3; i < data.length; i += 4) if (data[i] < 255) return transparent(bitmap, name);
  return data;
}

/** The same by WebGL: a 2D canvas multiplies colours by their alpha, and so forgets them. */
function transparent(bitmap, name) {
  const { height, width } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext('webgl2');
  if (!gl || Math.max(height, width) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
    throw new Error(`This browser cannot read what is transparent in ${name}. Save it without.`);
  }
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(4 * height * width);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  gl.getExtension('WEBGL_lose_context')?.loseContext();
  return data;
}

// --- the page ---

function showSeen({ height, width, channels, data }) {
  const canvas = $('seen');
  Object.assign(canvas, { height, width, hidden: false });
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    const colours = channels === 3 ? data.slice(3 * i, 3 * i + 3) : Array(3).fill(data[i]);
    image.data.set([...colours, 255], 4 * i);
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
}

function row({ index, label, probability }) {
  const make = (tag, fields) => Object.assign(document.createElement(tag), fields);
  const percent = `${(100 * probability).toFixed(2)} %`;
  const bar = make('div', { className: 'bar', ariaHidden: 'true' });
  bar.style.backgroundSize = `${100 * probability}% 100%`;
  const item = make('li');
  item.append(
    make('data', { className: 'class', value: index, textContent: label }),
    make('data', { className: 'probability', value: probability, textContent: percent }),
    bar,
  );
  return item;
}

async function answer() {
  if (!network || !picture) {
    $('note').textContent = `Choose a ${network ? 'picture' : 'network'}.`;
    return;
  }
  const seen = fit(await pixelsOf(picture, network.image.channels), network.image, network.how);
  showSeen(seen);
  let answers;
  const times = [];
  while (times.length < REPEAT) {
    const start = performance.now();
    answers = await classify(network, seen);
    times.push(performance.now() - start);
  }
  const median = times.sort((one, other) => one - other)[REPEAT >> 1];
  $('note').textContent = `${picture.name}, in ${median.toFixed(1)} ms`;
  $('answers').replaceChildren(...answers.slice(0, SHOWN).map(row));
}

let work = Promise.resolve(); // one thing after the other, in the order asked for

function next(task) {
  work = work.then(async () => {
    $('results').ariaBusy = 'true';
    $('problem').hidden = true;
    $('answers').replaceChildren();
    try {
      await task();
      await answer();
    } catch (error) {
      $('note').textContent = 'No answer.';
      $('problem').textContent = error.message;
      $('problem').hidden = false;
    }
    $('results').ariaBusy = 'false';
  });
}

function useModel(read, name) {
  next(async () => {
    const old = network;
    network = null;
    $('about').textContent = `Loading ${name} ...`;
    try {
      network = await load(new Uint8Array(await read()), name);
    } finally {
      $('about').textContent = network ? about(network) : 'None.';
      await old?.session.release();
    }
  });
}

function usePicture(read, name) {
  next(async () => {
    picture = null;
    $('seen').hidden = true;
    picture = { source: await read(), name };
  });
}

function useFile(file, asModel) {
  if (asModel) useModel(() => file.arrayBuffer(), file.name);
  else usePicture(() => file, file.name);
}

async function fetched(address) {
  const problem = `${address} cannot be loaded from the server of this page`;
  const response = await fetch(address).catch(() => {
    throw new Error(`${problem}. Choose the file instead.`);
  });
  if (!response.ok) throw new Error(`${problem}: ${response.status} ${response.statusText}.`);
  return response.blob();
}

// The camera: the button starts it, and then takes the picture.

function stopCamera() {
  const video = $('video');
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  video.hidden = $('stop').hidden = true;
  $('camera').textContent = 'Use the camera';
}

async function startCamera() {
  const video = $('video');
  try {
    const wanted = { video: { facingMode: 'environment' } };
    video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
  } catch {
    throw new Error('The camera cannot be used. Allow it for this page, or choose a picture.');
  }
  video.hidden = $('stop').hidden = false;
  await video.play();
  $('camera').textContent = 'Take the picture';
}

$('camera').onclick = () => {
  if (!$('video').srcObject) {
    startCamera().catch((error) => next(() => Promise.reject(error)));
    return;
  }
  const frame = createImageBitmap($('video'));
  usePicture(() => frame, 'the camera');
  frame.finally(stopCamera);
};
$('stop').onclick = stopCamera;

for (const id of ['model', 'picture']) {
  $(id).onchange = ({ target }) => {
    const [file] = target.files;
    if (file) useFile(file, id === 'model');
    target.value = ''; // so that the same file can be chosen again
  };
}

let inside = 0; // elements that the dragged file is over
document.ondragenter = () => document.body.classList.toggle('dropping', ++inside > 0);
document.ondragleave = () => document.body.classList.toggle('dropping', --inside > 0);
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  inside = 0;
  document.body.classList.remove('dropping');
  for (const file of event.dataTransfer.files) useFile(file, file.name.endsWith('.onnx'));
};

if (asked.has('model')) {
  const address = asked.get('model');
  useModel(async () => (await fetched(address)).arrayBuffer(), address);
}
if (asked.has('picture')) usePicture(() => fetched(asked.get('picture')), asked.get('picture'));
