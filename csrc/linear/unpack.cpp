#include <cstring>

#include "linear/geometry.h"
#include "linear/half.h"
#include "linear/packing.h"

namespace vivace {

namespace {

// The code of input k (0..63) of a chunk in one lane.
template <Layout L>
int chunk_code(const uint8_t* chunk, int k, int lane) {
  constexpr BlockGeometry G = block_geometry(L);
  const int group = k / GROUP_INPUTS;
  const int line = k % GROUP_INPUTS / 4;
  const int byte = lane * 4 + k % 4;
  if constexpr (G.code_bits == 8) {
    return chunk[(group * GROUP_LINES + line) * LINE_BYTES + byte];
  } else {
    int code = chunk[G.nibbles_at() + line * LINE_BYTES + byte] >> group * 4 & 15;
    if constexpr (G.code_bits == 5) code |= (chunk[group * LINE_BYTES + byte] >> line & 1) << 4;
    if constexpr (G.code_bits == 6) {
      code |= (chunk[(group * 2 + line / 4) * LINE_BYTES + byte] >> line % 4 * 2 & 3) << 4;
    }
    return code;
  }
}

struct ScaleAndMinimum {
  float scale;
  float minimum;  // as the format has it: subtracted by the K types, added by the others
  int zero = 0;   // subtracted from the code
};

// Of group `group` (of scale_inputs) of a super-block.
template <Layout L>
ScaleAndMinimum read_scale(const uint8_t* scales, int group, int lane) {
  constexpr BlockGeometry G = block_geometry(L);
  const auto half_at = [&](int at) { return float_from_half(load_u16(scales + at + lane * 2)); };
  if constexpr (L == Layout::Q6_K) {
    return {half_at(0) * static_cast<float>(static_cast<int8_t>(scales[G.scales_at() + group * 16 + lane])), 0.0f};
  } else if constexpr (G.is_k_type()) {
    return {half_at(0) * static_cast<float>(scales[G.scales_at() + group * 16 + lane]),
            half_at(32) * static_cast<float>(scales[G.minimums_at() + group * 16 + lane])};
  } else if constexpr (G.group_inputs > 0) {
    const int own = group * G.scale_inputs / G.group_inputs;
    return {half_at(own * 32), 0.0f, scales[G.zeros_at() + own * 16 + lane]};
  } else if constexpr (G.affine) {
    return {half_at(group * 32), half_at(G.minimums_at() + group * 32)};
  } else {
    return {half_at(group * 32), 0.0f};
  }
}

template <Layout L>
void unpack_lane(const uint8_t* block, int64_t columns, int lane, float scale, InputPlaces places, float* out) {
  constexpr BlockGeometry G = block_geometry(L);
  for (int64_t k = 0; k < columns; k += G.scale_inputs) {
    const int inside = static_cast<int>(k % G.superblock_inputs);
    const uint8_t* superblock = block + k / G.superblock_inputs * G.superblock_bytes();
    const uint8_t* chunk = superblock + G.scale_bytes() + inside / CHUNK_INPUTS * G.chunk_bytes();
    const auto [factor, minimum, zero] = read_scale<L>(superblock, inside / G.scale_inputs, lane);
    for (int i = 0; i < G.scale_inputs; ++i) {
      const int code = chunk_code<L>(chunk, inside % CHUNK_INPUTS + i, lane) - G.offset - zero;
      float value = factor * static_cast<float>(code);
      if constexpr (G.affine && G.group_inputs == 0) value = G.is_k_type() ? value - minimum : value + minimum;
      out[places(k + i)] = value * scale;
    }
  }
}

// Two neighbouring inputs lie together.
void unpack_bfloat_lane(const uint8_t* block, int64_t columns, int lane, float scale, InputPlaces places, float* out) {
  const uint8_t* from = block + lane * 4;
  for (int64_t k = 0; k < columns; k += 2, from += OUTPUT_BLOCK * 4) {
    uint32_t pair;
    std::memcpy(&pair, from, sizeof pair);
    out[places(k)] = float_from_bits(pair << 16) * scale;
    if (k + 1 < columns) out[places(k + 1)] = float_from_bits(pair & 0xffff0000u) * scale;
  }
}

void unpack_dense_lane(Layout layout, const uint8_t* block, int64_t columns, int lane, float scale, InputPlaces places,
                       float* out) {
  for (int64_t k = 0; k < columns; ++k) {
    float value;
    if (layout == Layout::F32) {
      std::memcpy(&value, block + (k * OUTPUT_BLOCK + lane) * 4, 4);
    } else {
      value = float_from_half(load_u16(block + (k * OUTPUT_BLOCK + lane) * 2));
    }
    out[places(k)] = value * scale;
  }
}

}  // namespace

void unpack_row(const PackedMatrix& matrix, int64_t row, float scale, float* out) {
  const uint8_t* block = matrix.data + row / OUTPUT_BLOCK * block_bytes(matrix.layout, matrix.columns);
  const int lane = static_cast<int>(row % OUTPUT_BLOCK);
  const InputPlaces places{matrix.input_order};
  const auto call = [&](auto unpack) { unpack(block, matrix.columns, lane, scale, places, out); };
  switch (matrix.layout) {
    case Layout::BF16: return call(unpack_bfloat_lane);
    case Layout::Q8_0: return call(unpack_lane<Layout::Q8_0>);
    case Layout::Q4_0: return call(unpack_lane<Layout::Q4_0>);
    case Layout::Q4_1: return call(unpack_lane<Layout::Q4_1>);
    case Layout::Q5_0: return call(unpack_lane<Layout::Q5_0>);
    case Layout::Q5_1: return call(unpack_lane<Layout::Q5_1>);
    case Layout::Q4_K: return call(unpack_lane<Layout::Q4_K>);
    case Layout::Q5_K: return call(unpack_lane<Layout::Q5_K>);
    case Layout::Q6_K: return call(unpack_lane<Layout::Q6_K>);
    case Layout::INT4_G32: return call(unpack_lane<Layout::INT4_G32>);
    case Layout::INT4_G64: return call(unpack_lane<Layout::INT4_G64>);
    case Layout::INT4_G128: return call(unpack_lane<Layout::INT4_G128>);
    case Layout::INT8_CHANNEL:
    case Layout::INT8_OUTLIER: return call(unpack_int8_lane);
    default: unpack_dense_lane(matrix.layout, block, matrix.columns, lane, scale, places, out);
  }
}

}  // namespace vivace
