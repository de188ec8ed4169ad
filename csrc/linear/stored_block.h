// Reads one stored block: unsigned codes in the order of inputs, and scales for one lane of a packed block.
#pragma once

#include <cstdint>
#include <cstring>

#include "linear/geometry.h"

namespace vivace {

// Sixteen bytes of nibbles hold inputs 0..15 (low) and 16..31 (high).
inline void read_nibbles(const uint8_t* nibbles, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = nibbles[i] & 15;
    codes[i + 16] = nibbles[i] >> 4;
  }
}

inline void add_fifth_bits(const uint8_t* bits, uint8_t* codes) {
  for (int i = 0; i < 32; ++i) codes[i] |= static_cast<uint8_t>((bits[i / 8] >> (i % 8) & 1) << 4);
}

// Each 32 bytes of a K type's nibbles hold 64 inputs: 32 low, then 32 high.
inline void read_k_nibbles(const uint8_t* nibbles, uint8_t* codes) {
  for (int chunk = 0; chunk < 4; ++chunk) {
    for (int i = 0; i < 32; ++i) {
      codes[chunk * 64 + i] = nibbles[chunk * 32 + i] & 15;
      codes[chunk * 64 + 32 + i] = nibbles[chunk * 32 + i] >> 4;
    }
  }
}

inline void read_q6_k(const uint8_t* stored, uint8_t* codes) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t* low = stored + half * 64;
    const uint8_t* high = stored + 128 + half * 32;
    uint8_t* out = codes + half * 128;
    for (int i = 0; i < 32; ++i) {
      out[i] = static_cast<uint8_t>((low[i] & 15) | (high[i] & 3) << 4);
      out[i + 32] = static_cast<uint8_t>((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4);
      out[i + 64] = static_cast<uint8_t>(low[i] >> 4 | (high[i] >> 4 & 3) << 4);
      out[i + 96] = static_cast<uint8_t>(low[i + 32] >> 4 | (high[i] >> 6) << 4);
    }
  }
}

template <Layout L>
void read_codes(const uint8_t* stored, uint8_t* codes) {
  if constexpr (L == Layout::Q8_0) {
    for (int i = 0; i < 32; ++i) codes[i] = stored[2 + i] ^ 0x80;  // int8 + 128
  } else if constexpr (L == Layout::Q4_0) {
    read_nibbles(stored + 2, codes);
  } else if constexpr (L == Layout::Q4_1) {
    read_nibbles(stored + 4, codes);
  } else if constexpr (L == Layout::Q5_0) {
    read_nibbles(stored + 6, codes);
    add_fifth_bits(stored + 2, codes);
  } else if constexpr (L == Layout::Q5_1) {
    read_nibbles(stored + 8, codes);
    add_fifth_bits(stored + 4, codes);
  } else if constexpr (L == Layout::Q4_K) {
    read_k_nibbles(stored + 16, codes);
  } else if constexpr (L == Layout::Q5_K) {
    read_k_nibbles(stored + 48, codes);
    for (int i = 0; i < 256; ++i) codes[i] |= static_cast<uint8_t>((stored[16 + i % 32] >> (i / 32) & 1) << 4);
  } else if constexpr (block_geometry(L).group_inputs > 0) {
    for (int i = 0; i < block_geometry(L).group_inputs; i += 32) read_nibbles(stored + 4 + i / 2, codes + i);
  } else {
    read_q6_k(stored, codes);
  }
}

// Copies the scales of stored block `block` of a super-block into lane `lane` of the packed scales.
template <Layout L>
void copy_scales(const uint8_t* stored, int block, int lane, uint8_t* scales) {
  constexpr BlockGeometry G = block_geometry(L);
  if constexpr (L == Layout::Q6_K) {
    for (int i = 0; i < 16; ++i) scales[G.scales_at() + i * 16 + lane] = stored[192 + i];
    std::memcpy(scales + lane * 2, stored + 208, 2);
  } else if constexpr (G.is_k_type()) {
    const uint8_t* packed = stored + 4;  // eight 6-bit scales and minimums in 12 bytes
    for (int i = 0; i < 8; ++i) {
      const int low = i % 4;
      const uint8_t upper = packed[8 + low];
      const bool first = i < 4;
      scales[G.scales_at() + i * 16 + lane] =
          static_cast<uint8_t>(first ? packed[low] & 63 : (upper & 15) | packed[low] >> 6 << 4);
      scales[G.minimums_at() + i * 16 + lane] =
          static_cast<uint8_t>(first ? packed[low + 4] & 63 : upper >> 4 | packed[low + 4] >> 6 << 4);
    }
    std::memcpy(scales + lane * 2, stored, 2);
    std::memcpy(scales + 32 + lane * 2, stored + 2, 2);
  } else if constexpr (G.group_inputs > 0) {
    std::memcpy(scales + block * 32 + lane * 2, stored, 2);
    scales[G.zeros_at() + block * 16 + lane] = stored[2];
  } else {
    std::memcpy(scales + block * 32 + lane * 2, stored, 2);
    if constexpr (G.affine) std::memcpy(scales + G.minimums_at() + block * 32 + lane * 2, stored + 2, 2);
  }
}

}  // namespace vivace
