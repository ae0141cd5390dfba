// The logits of images, by a TorchScript artifact in C++: one line an image.
//
//     pip install torch
//     cmake -S examples/cpp -B build -DCMAKE_BUILD_TYPE=Release \
//         -DCMAKE_PREFIX_PATH="$(python -c 'import torch; print(torch.utils.cmake_prefix_path)')"
//     cmake --build build
//     build/run digits.torchscript.pt images.npy
//     build/run digits.torchscript.pt picture.ppm
//
// An .npy file holds prepared images, float32 (batch, channels, height, width), or uint8 (batch,
// height, width, channels) for an artifact that takes bytes, as numpy.save and run_onnxruntime.py
// --save write them. A PPM (or, for grey, PGM) picture of 8 bits has the network's size already; it
// is normalised as the artifact's metadata says, or by the artifact itself. An artifact that gives
// probabilities gives those.

#include "images.hpp"

#include <torch/script.h>

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("Usage: run ARTIFACT IMAGES.npy|PICTURE.ppm");
  const torch::InferenceMode inference;
  torch::jit::ExtraFilesMap extra{{"provenance.json", ""}};
  auto program = torch::jit::load(argv[1], torch::kCPU, extra);
  const auto images = read_images(argv[2], extra["provenance.json"]);
  print_rows(program.forward({images}).toTensor().contiguous());
} catch (const c10::Error& error) {
  std::cerr << error.what_without_backtrace() << "\n";
  return 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
