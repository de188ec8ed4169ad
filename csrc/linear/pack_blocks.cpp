#include <algorithm>
#include <cstring>

#include "linear/geometry.h"
#include "linear/packing.h"
#include "linear/stored_block.h"

namespace vivace {

namespace {

// The codes of one chunk, a byte each, as lines [16][16 lanes][4 inputs].
using Lines = uint8_t[2 * GROUP_LINES][LINE_BYTES];

void write_fifth_bits(const Lines& lines, uint8_t* planes) {
  for (int group = 0; group < 2; ++group) {
    for (int j = 0; j < GROUP_LINES; ++j) {
      const uint8_t* line = lines[group * GROUP_LINES + j];
      for (int i = 0; i < LINE_BYTES; ++i) {
        planes[group * LINE_BYTES + i] |= static_cast<uint8_t>((line[i] >> 4 & 1) << j);
      }
    }
  }
}

void write_upper_bit_pairs(const Lines& lines, uint8_t* planes) {
  for (int j = 0; j < 2 * GROUP_LINES; ++j) {
    uint8_t* plane = planes + j / 4 * LINE_BYTES;
    for (int i = 0; i < LINE_BYTES; ++i) plane[i] |= static_cast<uint8_t>((lines[j][i] >> 4 & 3) << j % 4 * 2);
  }
}

// The chunk is zero before.
template <Layout L>
void write_chunk(const Lines& lines, uint8_t* chunk) {
  constexpr BlockGeometry G = block_geometry(L);
  if constexpr (G.code_bits == 8) {
    std::memcpy(chunk, lines, sizeof lines);
  } else {
    for (int j = 0; j < GROUP_LINES; ++j) {
      for (int i = 0; i < LINE_BYTES; ++i) {
        chunk[G.nibbles_at() + j * LINE_BYTES + i] =
            static_cast<uint8_t>((lines[j][i] & 15) | (lines[GROUP_LINES + j][i] & 15) << 4);
      }
    }
    if constexpr (G.code_bits == 5) write_fifth_bits(lines, chunk);
    if constexpr (G.code_bits == 6) write_upper_bit_pairs(lines, chunk);
  }
}

// stored: the first row of the 16, at this super-block's first stored block. num_stored: stored blocks that exist.
template <Layout L>
void pack_superblock(const uint8_t* stored, int64_t row_stride, int num_lanes, int64_t num_stored, uint8_t* packed) {
  constexpr BlockGeometry G = block_geometry(L);
  Lines lines[G.chunks()];
  std::memset(lines, 0, sizeof lines);
  for (int lane = 0; lane < num_lanes; ++lane) {
    uint8_t codes[G.superblock_inputs] = {};
    for (int block = 0; block < num_stored; ++block) {
      const uint8_t* from = stored + lane * row_stride + block * G.stored_bytes;
      read_codes<L>(from, codes + block * G.stored_inputs);
      copy_scales<L>(from, block, lane, packed);
    }
    for (int line = 0; line < G.superblock_inputs / 4; ++line) {
      std::memcpy(lines[line / 16][line % 16] + lane * 4, codes + line * 4, 4);
    }
  }
  for (int chunk = 0; chunk < G.chunks(); ++chunk) {
    write_chunk<L>(lines[chunk], packed + G.scale_bytes() + chunk * G.chunk_bytes());
  }
}

template <Layout L>
void pack_blocks(const uint8_t* stored_rows, int64_t row_stride, int64_t rows, int64_t columns, uint8_t* packed,
                 int64_t block_begin, int64_t block_end) {
  constexpr BlockGeometry G = block_geometry(L);
  const int64_t stored_blocks = columns / G.stored_inputs;
  constexpr int64_t STORED_A_SUPERBLOCK = G.superblock_inputs / G.stored_inputs;
  for (int64_t block = block_begin; block < block_end; ++block) {
    const int64_t row = block * OUTPUT_BLOCK;
    const int num_lanes = static_cast<int>(std::min(OUTPUT_BLOCK, rows - row));
    uint8_t* to = packed + block * block_bytes(L, columns);
    for (int64_t first = 0; first < stored_blocks; first += STORED_A_SUPERBLOCK) {
      pack_superblock<L>(stored_rows + row * row_stride + first * G.stored_bytes, row_stride, num_lanes,
                         std::min(STORED_A_SUPERBLOCK, stored_blocks - first), to);
      to += G.superblock_bytes();
    }
  }
}

}  // namespace

void pack_quantized(Layout layout, const uint8_t* stored_rows, int64_t row_stride, int64_t rows, int64_t columns,
                    uint8_t* packed, int64_t block_begin, int64_t block_end) {
  const auto call = [&](auto pack_layout) {
    pack_layout(stored_rows, row_stride, rows, columns, packed, block_begin, block_end);
  };
  switch (layout) {
    case Layout::Q8_0: return call(pack_blocks<Layout::Q8_0>);
    case Layout::Q4_0: return call(pack_blocks<Layout::Q4_0>);
    case Layout::Q4_1: return call(pack_blocks<Layout::Q4_1>);
    case Layout::Q5_0: return call(pack_blocks<Layout::Q5_0>);
    case Layout::Q5_1: return call(pack_blocks<Layout::Q5_1>);
    case Layout::Q4_K: return call(pack_blocks<Layout::Q4_K>);
    case Layout::Q5_K: return call(pack_blocks<Layout::Q5_K>);
    case Layout::INT4_G32: return call(pack_blocks<Layout::INT4_G32>);
    case Layout::INT4_G64: return call(pack_blocks<Layout::INT4_G64>);
    case Layout::INT4_G128: return call(pack_blocks<Layout::INT4_G128>);
    default: return call(pack_blocks<Layout::Q6_K>);
  }
}

}  // namespace vivace
