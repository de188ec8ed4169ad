// Where each number of a packed block sits. A block is 16 outputs (N) x all inputs (K); lane c is output c of the block.
//
// Dense:     F32 [K][16], F16 [K][16], BF16 [K/2][16][2].
// Quantised: a row of super-blocks of 64 inputs (256 for the K types), each a multiple of 64 bytes, so that no line of
//            codes crosses a cache line. A super-block holds its scales, then one or four chunks of codes: in the order
//            of use, because the processor fetches ahead of a stream that only moves forward.
// Chunk:     64 inputs in two groups of 32. A line is 4 inputs x 16 outputs in 64 bytes, [16][4], the operand of one
//            VPDPBUSD; a group is 8 lines. Codes are unsigned; the value is code - offset (or affine).
//   8 bits   16 lines.
//   4 bits   8 lines: line j of group 0 in the low nibbles, of group 1 in the high nibbles.
//   5 bits   one line a group, then the nibbles: bit j of byte i is the fifth bit of byte i in line j.
//   6 bits   two lines a group, then the nibbles: bits 2 (j % 4) and up of byte i in line j / 4 are the upper two bits.
// Scales:    64 inputs: f16 scale [2][16], then f16 minimum [2][16] if affine.
//   Q4_K, Q5_K  f16 d [16], f16 dmin [16], u8 scale [8][16], u8 minimum [8][16].
//   Q6_K        f16 d [16], 32 bytes of nothing, i8 scale [16][16].
//   INT4_G*     f16 scale [groups][16], u8 zero point [groups][16], nothing up to a multiple of 64 bytes. A group of 32,
//               64 or 128 inputs has one; super-blocks hold 4, 1 or 1 of them: 4.75, 4.5 and 4.25 bits a weight.
// Int8 rows (INT8_CHANNEL, INT8_OUTLIER): f32 scale [16], then lines of 8-bit codes, offset 128.
//
// Functions are static or inlined: files compiled for different instruction sets must not share one copy.
#pragma once

#include <cstdint>

#include "linear.h"

namespace vivace {

inline constexpr int CHUNK_INPUTS = 64;
inline constexpr int GROUP_INPUTS = 32;
inline constexpr int GROUP_LINES = 8;
inline constexpr int LINE_BYTES = 64;

struct BlockGeometry {
  int code_bits;
  int offset;             // subtracted from a code
  bool affine;            // value = scale * code + minimum (K types: - minimum)
  int superblock_inputs;  // 64 or 256
  int scale_inputs;       // inputs that share a scale: 32 or 16
  int stored_inputs;      // of a block in the file
  int stored_bytes;
  int group_inputs = 0;   // inputs that share a scale and a zero point: value = scale * (code - zero); else 0

  [[gnu::always_inline]] constexpr bool is_k_type() const { return superblock_inputs == 256; }
  [[gnu::always_inline]] constexpr int chunks() const { return superblock_inputs / CHUNK_INPUTS; }
  [[gnu::always_inline]] constexpr int chunk_bytes() const { return CHUNK_INPUTS * 16 * code_bits / 8; }
  [[gnu::always_inline]] constexpr int scale_bytes() const {
    if (group_inputs) return (superblock_inputs / group_inputs * 48 + 63) / 64 * 64;
    return is_k_type() ? 320 : affine ? 128 : 64;
  }
  [[gnu::always_inline]] constexpr int superblock_bytes() const { return scale_bytes() + chunks() * chunk_bytes(); }
  // Offsets within the scales of a super-block.
  [[gnu::always_inline]] constexpr int scales_at() const { return is_k_type() ? 64 : 0; }
  [[gnu::always_inline]] constexpr int minimums_at() const { return is_k_type() ? 192 : 64; }
  [[gnu::always_inline]] constexpr int zeros_at() const { return superblock_inputs / group_inputs * 32; }
  // Offset of the nibbles in a chunk: behind the planes of upper bits.
  [[gnu::always_inline]] constexpr int nibbles_at() const { return chunk_bytes() - GROUP_LINES * LINE_BYTES; }
};

static constexpr bool is_dense(Layout layout) {
  return layout == Layout::F32 || layout == Layout::F16 || layout == Layout::BF16;
}

// One scale a row. INT8_OUTLIER differs from INT8_CHANNEL in how activations are read alone.
static constexpr bool is_int8_row(Layout layout) {
  return layout == Layout::INT8_CHANNEL || layout == Layout::INT8_OUTLIER;
}

inline constexpr int INT8_ROW_SCALE_BYTES = 64;

// Of a layout of super-blocks.
static constexpr BlockGeometry block_geometry(Layout layout) {
  switch (layout) {
    case Layout::Q8_0: return {8, 128, false, 64, 32, 32, 34};
    case Layout::Q4_0: return {4, 8, false, 64, 32, 32, 18};
    case Layout::Q4_1: return {4, 0, true, 64, 32, 32, 20};
    case Layout::Q5_0: return {5, 16, false, 64, 32, 32, 22};
    case Layout::Q5_1: return {5, 0, true, 64, 32, 32, 24};
    case Layout::Q4_K: return {4, 0, true, 256, 32, 256, 144};
    case Layout::Q5_K: return {5, 0, true, 256, 32, 256, 176};
    case Layout::Q6_K: return {6, 32, false, 256, 16, 256, 210};
    case Layout::INT4_G32: return {4, 0, true, 128, 32, 32, 20, 32};
    case Layout::INT4_G64: return {4, 0, true, 64, 32, 64, 36, 64};
    case Layout::INT4_G128: return {4, 0, true, 128, 32, 128, 68, 128};
    default: return {};
  }
}

static constexpr int64_t num_superblocks(const BlockGeometry& geometry, int64_t columns) {
  return (columns + geometry.superblock_inputs - 1) / geometry.superblock_inputs;
}

// Bytes of one packed block of 16 outputs.
static constexpr int64_t block_bytes(Layout layout, int64_t columns) {
  switch (layout) {
    case Layout::F32: return columns * 64;
    case Layout::F16:
    case Layout::BF16: return (columns + 1) / 2 * 64;
    case Layout::INT8_CHANNEL:
    case Layout::INT8_OUTLIER: return INT8_ROW_SCALE_BYTES + (columns + 3) / 4 * LINE_BYTES;
    default: {
      const BlockGeometry geometry = block_geometry(layout);
      return num_superblocks(geometry, columns) * geometry.superblock_bytes();
    }
  }
}

}  // namespace vivace
