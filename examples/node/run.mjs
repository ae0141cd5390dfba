// The logits of prepared images, by onnxruntime in Node: one line an image.
//
//     cd examples/node && npm install --ignore-scripts
//     node run.mjs digits.onnx images.npy
//
// The images are float32 (batch, channels, height, width), as numpy.save and
// run_onnxruntime.py --save write them. onnxruntime-node does not give a file's metadata.

import { readFileSync } from 'node:fs';
import { InferenceSession, Tensor } from 'onnxruntime-node';

function readNpy(path) {
  const file = readFileSync(path);
  const start = 10 + file.readUInt16LE(8); // behind the magic, the version and the header
  const header = file.toString('latin1', 10, start);
  const shape = header.match(/'shape': \(([\d, ]+)\)/)?.[1].split(',').map(Number);
  if (!header.includes("'<f4'") || !header.includes("'fortran_order': False") || shape?.length !== 4) {
    throw new Error(`${path} is no float32 (batch, channels, height, width) as numpy saves it.`);
  }
  const bytes = file.buffer.slice(file.byteOffset + start, file.byteOffset + file.length); // aligned
  return new Tensor('float32', new Float32Array(bytes), shape);
}

const [artifact, images] = process.argv.slice(2);
const session = await InferenceSession.create(artifact);
const { logits } = await session.run({ pixel_values: readNpy(images) });
const [batch, classes] = logits.dims;
for (let i = 0; i < batch; i++) {
  console.log(logits.data.slice(i * classes, (i + 1) * classes).join(' '));
}
