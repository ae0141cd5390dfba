// The same for a PT2 artifact that was compiled, by --format pt2 --compile: one line an image.
//
//     build/run_compiled digits.avx2.pt2 images.npy
//
// It is built with the other program, as main.cpp explains, and takes the same images. The artifact
// is native code, which torch unpacks into a temporary folder and loads as a library.

#include "images.hpp"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

std::string provenance(const std::string& path) {
  caffe2::serialize::PyTorchStreamReader archive(path);
  if (!archive.hasRecord("extra/provenance.json"))
    throw std::runtime_error(path + " has no provenance. Expected an artifact of levit-deploy.");
  const auto [data, size] = archive.getRecord("extra/provenance.json");
  return {static_cast<const char*>(data.get()), size};
}

// Whether this processor has the instructions, or the code would end the program.
bool runs_here(const std::string& metadata) {
  if (metadata.find(R"("processor": "avx2")") != std::string::npos)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return metadata.find(R"("processor": "avx512)") != std::string::npos &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("Usage: run_compiled ARTIFACT IMAGES.npy|PICTURE.ppm");
  const torch::InferenceMode inference;
  const auto metadata = provenance(argv[1]);
  if (!runs_here(metadata))
    throw std::runtime_error(std::string(argv[1]) + " is not compiled for this processor.");
  const auto images = read_images(argv[2], metadata);
  torch::inductor::AOTIModelPackageLoader network(argv[1]);
  print_rows(network.run({images}).at(0).contiguous());
} catch (const c10::Error& error) {
  std::cerr << error.what_without_backtrace() << "\n";
  return 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
