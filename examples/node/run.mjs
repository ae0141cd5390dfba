// The logits of prepared images, by onnxruntime in Node: one line an image.
//
//     (cd examples/node && npm install --ignore-scripts)
//     node examples/node/run.mjs digits.onnx images.npy
//
// The images are float32 (batch, channels, height, width), or uint8 (batch, height, width, channels)
// for an artifact that takes bytes, as numpy.save and run_onnxruntime.py --save write them. An
// artifact that gives probabilities gives those. onnxruntime-node does not give a file's metadata.

import { readFileSync } from 'node:fs';
import { InferenceSession, Tensor } from 'onnxruntime-node';

const TYPES = { '<f4': ['float32', Float32Array], '|u1': ['uint8', Uint8Array] };

function readNpy(path) {
  const file = readFileSync(path);
  const start = 10 + file.readUInt16LE(8); // behind the magic, the version and the header
  const header = file.toString('latin1', 10, start);
  const shape = header.match(/'shape': \(([\d, ]+)\)/)?.[1].split(',').map(Number);
  const [type, Numbers] = TYPES[header.match(/'descr': '(...)'/)?.[1]] ?? [];
  if (!type || !header.includes("'fortran_order': False") || shape?.length !== 4) {
    throw new Error(`${path} holds no batch of float32 or uint8 images as numpy saves it.`);
  }
  const bytes = file.buffer.slice(file.byteOffset + start, file.byteOffset + file.length); // aligned
  return new Tensor(type, new Numbers(bytes), shape);
}

try {
  const [artifact, images] = process.argv.slice(2);
  if (!images) throw new Error('Usage: node run.mjs ARTIFACT.onnx IMAGES.npy');
  const session = await InferenceSession.create(artifact);
  const found = await session.run({ [session.inputNames[0]]: readNpy(images) });
  const { data, dims } = found[session.outputNames[0]];
  const [batch, classes] = dims;
  for (let i = 0; i < batch; i++) {
    console.log(data.slice(i * classes, (i + 1) * classes).join(' '));
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
