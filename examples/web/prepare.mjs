// What an ONNX file of levit-deploy says of itself, and how a picture becomes its input: byte for
// byte as `levit-deploy predict` does it with Pillow. A browser's own resizing gives other pixels,
// and so other answers. No DOM in here: it also runs in Node and in workers.

// --- the file ---

/** The metadata_props of an ONNX file, an object of strings. Throws if the bytes are no such. */
export function readMetadata(bytes) {
  const metadata = {};
  let fields = 0;
  for (const [field, value] of protobuf(bytes)) {
    fields++;
    if (field !== 14) continue; // ModelProto.metadata_props, each with a key, 1, and a value, 2
    const entry = Object.fromEntries(protobuf(value));
    const [key, text] = [entry[1], entry[2]].map((part) => new TextDecoder().decode(part));
    metadata[key] = text;
  }
  if (!fields) throw new Error('it is empty');
  return metadata;
}

/** The [number, value] of each field of a protobuf message; bytes are not copied. */
function* protobuf(bytes) {
  let at = 0;
  const varint = () => {
    let number = 0;
    for (let scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      number += (byte & 127) * scale;
      if (byte < 128) return number;
    }
    throw new Error('it is not whole');
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) {
      yield [Math.floor(tag / 8), varint()];
      continue;
    }
    const length = { 1: 8, 2: undefined, 5: 4 }[kind] ?? (kind === 2 ? varint() : NaN);
    if (!(at + length <= bytes.length)) throw new Error('it is no ONNX file, or not whole');
    yield [Math.floor(tag / 8), bytes.subarray(at, (at += length))];
  }
}

// --- the picture: resized, cropped, scaled to 0..1 and normalised ---

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const [BASE, SWING] = [0.54, 0.46].map(Math.fround); // Pillow has them in float32
const raisedCosine = (x) => BASE + SWING * Math.cos(Math.PI * x);

// Each filter: how far it reaches, and its weight at a distance.
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * raisedCosine(x) : 0)],
  bicubic: [2, (x) => cubic(Math.abs(x), -0.5)],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function cubic(x, a) {
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

const BITS = 22; // of a weight behind the point, as Pillow has them

/** For each pixel of a resized line: the first one it is made of, and their whole weights. */
function weights(from, to, filter) {
  if (filter === 'nearest') {
    let centre = (from / to) * 0.5;
    return Array.from({ length: to }, () => {
      const first = Math.min(Math.trunc(centre), from - 1);
      centre += from / to; // summed up, with the rounding that brings
      return [first, [1 << BITS]];
    });
  }
  const [reach, weight] = FILTERS[filter];
  const scale = from / to;
  const wider = Math.max(scale, 1); // so that every pixel counts when a picture shrinks
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach * wider + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach * wider + 0.5), from);
    const exact = [];
    for (let x = first; x < end; x++) exact.push(weight((x - centre + 0.5) * (1 / wider)));
    const sum = exact.reduce((one, other) => one + other, 0);
    const whole = exact.map((w) => {
      const scaled = (sum === 0 ? w : w / sum) * (1 << BITS);
      return Math.trunc(scaled + (w < 0 ? -0.5 : 0.5));
    });
    return [first, Int32Array.from(whole)];
  });
}

/** Resize along one side. Pixel i of a line is at line * lineStep + i * step. */
function resizeSide(picture, side, to, filter) {
  const { height, width, channels, data } = picture;
  const from = picture[side];
  if (from === to) return picture;
  const resized = { ...picture, [side]: to };
  resized.data = new Uint8ClampedArray(resized.height * resized.width * channels);
  const table = weights(from, to, filter);
  const pixel = (line, i, lineStep, newLineStep, step) => {
    const [first, whole] = table[i];
    for (let c = 0; c < channels; c++) {
      let sum = 1 << (BITS - 1); // a half
      let at = line * lineStep + first * step + c;
      for (let k = 0; k < whole.length; k++, at += step) sum += data[at] * whole[k];
      resized.data[line * newLineStep + i * step + c] = sum >> BITS; // clamped to a byte
    }
  };
  // in the order in which pixels lie in memory, which is faster
  if (side === 'width') {
    for (let y = 0; y < height; y++) {
      for (let i = 0; i < to; i++) pixel(y, i, width * channels, to * channels, channels);
    }
  } else {
    for (let i = 0; i < to; i++) {
      for (let x = 0; x < width; x++) pixel(x, i, channels, channels, width * channels);
    }
  }
  return resized;
}

/** Python's round(): a half goes to the even number. */
function round(x) {
  const down = Math.floor(x);
  return x - down === 0.5 ? down + (down % 2) : Math.round(x);
}

/** The [height, width] that a picture is resized to, for the network's image size. */
function resizedTo({ height, width }, image, how) {
  const rows = Math.floor(image.height / how.crop_fraction);
  const columns = Math.floor(image.width / how.crop_fraction);
  if (how.resize === 'stretch') return [rows, columns];
  if (how.resize === 'border') {
    const ratio = Math.max(height / rows, width / columns);
    return [round(height / ratio), round(width / ratio)];
  }
  const square = rows === columns; // which torchvision resizes, and timm others
  if (height * columns <= width * rows) {
    return [rows, square ? Math.trunc((rows * width) / height) : round(width / (height / rows))];
  }
  const tall = square ? Math.trunc((columns * height) / width) : round(height / (width / columns));
  return [tall, columns];
}

/** RGBA bytes without alpha, as 3 channels or as the grey of Pillow's convert('L'). */
export function channelsOf(rgba, channels) {
  const pixels = rgba.length / 4;
  const data = new Uint8ClampedArray(pixels * channels);
  for (let i = 0; i < pixels; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) {
      data[i] = (r * 19595 + g * 38470 + b * 7471 + 32768) >> 16;
    } else {
      data[3 * i] = r;
      data[3 * i + 1] = g;
      data[3 * i + 2] = b;
    }
  }
  return data;
}

/**
 * Resize and crop: a picture, { height, width, channels, data }, to the size of the image.
 *
 * `how` is the object in the metadata under 'preprocessing'. The data are bytes, (height, width,
 * channels).
 */
export function fit(picture, image, how) {
  const [rows, columns] = resizedTo(picture, image, how);
  if (!(rows * columns > 0 && rows * columns <= 2 ** 26)) {
    throw new Error(
      `The picture is ${picture.width} pixels wide and ${picture.height} high, which resized ` +
        `would be ${columns} and ${rows}. Use one with sides more alike.`,
    );
  }
  // Between the two, pixels are rounded to bytes. Pillow before 13 always began with the width.
  const lost = [picture.height - rows, picture.width - columns];
  const sides = [['width', columns], ['height', rows]];
  if (lost[0] > 0 && lost[0] > 2 * lost[1]) sides.reverse();
  let resized = picture;
  for (const [side, to] of sides) resized = resizeSide(resized, side, to, how.interpolation);

  const { channels } = picture;
  const { height, width } = image;
  const half = how.truncated ? Math.floor : round;
  const [top, left] = [rows - height, columns - width].map(
    (surplus) => (surplus >= 0 ? half(surplus / 2) : -Math.floor(-surplus / 2)), // or a border
  );
  const colour = ofEach(how.mean, channels).map((mean) => round(255 * mean));
  const data = new Uint8Array(height * width * channels);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [row, column] = [y + top, x + left];
      const inside = row >= 0 && row < rows && column >= 0 && column < columns;
      const from = (row * columns + column) * channels;
      for (let c = 0; c < channels; c++) data[at++] = inside ? resized.data[from + c] : colour[c];
    }
  }
  return { height, width, channels, data };
}

/** One number for each channel, if there is one for all, or the average of colours for grey. */
function ofEach(values, channels) {
  if (channels === 1) return [values.reduce((one, other) => one + other, 0) / values.length];
  return values.length === 1 ? Array(channels).fill(values[0]) : values;
}

/** Scale to 0..1 and normalise in float32, (channels, height, width). */
export function normalise({ height, width, channels, data }, how) {
  const pixels = height * width;
  const normalised = new Float32Array(channels * pixels);
  const [mean, std] = [how.mean, how.std].map((v) => ofEach(v, channels).map(Math.fround));
  for (let c = 0; c < channels; c++) {
    for (let i = 0; i < pixels; i++) {
      const scaled = Math.fround(data[i * channels + c] / 255);
      normalised[c * pixels + i] = Math.fround(scaled - mean[c]) / std[c];
    }
  }
  return normalised;
}
