// Images for an artifact, the checks that torch leaves out, and the answers as text.
#pragma once

#include <torch/types.h>

#include <algorithm>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <limits>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

inline std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read.");
  return {std::istreambuf_iterator<char>(file), {}};
}

// The numbers behind a name in JSON: one, or those of a list.
inline std::vector<double> numbers(const std::string& json, const std::string& name) {
  std::smatch found;
  // the metadata are JSON within JSON, so the inner quotes are escaped
  const std::regex entry(R"(\\")" + name + R"(\\": \[?([-+0-9.e, ]+))");
  if (!std::regex_search(json, found, entry)) throw std::runtime_error("No " + name + " found.");
  std::string list = found[1];
  std::replace(list.begin(), list.end(), ',', ' ');
  std::istringstream text(list);
  return {std::istream_iterator<double>(text), {}};
}

inline bool takes_bytes(const std::string& metadata) {
  return metadata.find(R"("input": "uint8")") != std::string::npos;
}

inline torch::Tensor read_npy(const std::string& path) {
  std::string file = read(path);
  if (file.size() < 10 || file.substr(1, 5) != "NUMPY") throw std::runtime_error(path + " is no .npy.");
  const size_t start = 10 + uint8_t(file[8]) + 256 * uint8_t(file[9]);
  const std::string header = file.substr(10, start - 10);
  std::smatch shape;
  const std::regex form(
      R"('(<f4|\|u1)', 'fortran_order': False, 'shape': \((\d+), (\d+), (\d+), (\d+)\))");
  if (!std::regex_search(header, shape, form))
    throw std::runtime_error(path + " holds no batch of float32 or uint8 images.");
  const auto type = shape[1] == "<f4" ? torch::kFloat32 : torch::kUInt8;
  const std::vector<int64_t> sizes{
      std::stoll(shape[2]), std::stoll(shape[3]), std::stoll(shape[4]), std::stoll(shape[5])};
  if (file.size() - start != torch::elementSize(type) * c10::multiply_integers(sizes))
    throw std::runtime_error(path + " is not whole.");
  return torch::from_blob(file.data() + start, sizes, type).clone();
}

inline torch::Tensor read_ppm(const std::string& path, const std::string& metadata) {
  std::string file = read(path);
  std::smatch header;  // four words, with comments between them, and one space before the pixels
  const std::string gap = R"((?:\s|#[^\n]*\n)+)";
  const std::regex form("(P[56])" + gap + "(\\d+)" + gap + "(\\d+)" + gap + "255\\s");
  const std::string front = file.substr(0, 4096);
  if (!std::regex_search(front, header, form, std::regex_constants::match_continuous))
    throw std::runtime_error(path + " is no PPM or PGM picture of 8 bits.");
  const int64_t channels = header[1] == "P6" ? 3 : 1, start = header.length();
  const int64_t width = std::stoll(header[2]), height = std::stoll(header[3]);
  if (int64_t(file.size()) - start != channels * height * width)
    throw std::runtime_error(path + " is not whole.");

  const auto bytes = torch::from_blob(file.data() + start, {1, height, width, channels}, torch::kUInt8);
  if (takes_bytes(metadata)) return bytes.clone();
  const auto statistic = [&](const char* name) {
    const auto values = torch::tensor(numbers(metadata, name), torch::kFloat32);
    return channels == 1 ? values.mean() : values;  // of three colours, where a network takes grey
  };
  const auto pixels = bytes.to(torch::kFloat32) / 255;
  return ((pixels - statistic("mean")) / statistic("std")).permute({0, 3, 1, 2}).contiguous();
}

// Images from a file of either kind, if they are of the network's size and type.
inline torch::Tensor read_images(const std::string& path, const std::string& metadata) {
  const auto images = path.ends_with(".npy") ? read_npy(path) : read_ppm(path, metadata);
  if (images.scalar_type() != (takes_bytes(metadata) ? torch::kUInt8 : torch::kFloat32))
    throw std::runtime_error(path + (takes_bytes(metadata) ? " holds no bytes" : " holds bytes") +
                             ", unlike what the artifact takes.");
  auto expected = numbers(metadata, "image_size");
  const double channels = numbers(metadata, "in_channels").at(0);
  expected.insert(takes_bytes(metadata) ? expected.end() : expected.begin(), channels);
  if (!std::ranges::equal(images.sizes().slice(1), expected))  // torch itself would run some others
    throw std::runtime_error(path + " is not of the network's size, or has other channels.");
  return images;
}

inline void print_rows(const torch::Tensor& logits) {
  std::cout << std::setprecision(std::numeric_limits<float>::max_digits10);
  for (int64_t i = 0; i < logits.size(0); ++i)
    for (int64_t j = 0; j < logits.size(1); ++j)
      std::cout << logits[i][j].item<float>() << (j + 1 < logits.size(1) ? " " : "\n");
}
