// The scales of one super-block of weights, as float32 lanes. Products of d and a K type's scale are exact (17 bits), of
// a scale and a zero point too.
#pragma once

#include "linear/codes.h"

namespace vivace::VIVACE_ISA {

// scale(group, half): of inputs group * 32 + half * 16 and up; minimum(group) is what each input adds.
template <Layout L>
struct Scales {
  static constexpr BlockGeometry G = block_geometry(L);

  VIVACE_INLINE explicit Scales(const uint8_t* from) : from_(from) {
    if constexpr (G.is_k_type()) factor_ = load_halves(from);
    if constexpr (G.is_k_type() && G.affine) minimum_factor_ = zero() - load_halves(from + 32);
    if constexpr (G.group_inputs > GROUP_INPUTS) {
      factor_ = load_halves(from);
      minimum_factor_ = zero() - factor_ * load_bytes<uint8_t>(from + G.zeros_at());
    }
  }

  VIVACE_INLINE V16 scale(int group, int half) const {
    if constexpr (L == Layout::Q6_K) return factor_ * load_bytes<int8_t>(from_ + G.scales_at() + (group * 2 + half) * 16);
    if constexpr (G.is_k_type()) return factor_ * load_bytes<uint8_t>(from_ + G.scales_at() + group * 16);
    if constexpr (G.group_inputs > GROUP_INPUTS) return factor_;
    return load_halves(from_ + group * 32);
  }

  VIVACE_INLINE V16 minimum(int group) const {
    if constexpr (G.is_k_type()) return minimum_factor_ * load_bytes<uint8_t>(from_ + G.minimums_at() + group * 16);
    if constexpr (G.group_inputs > GROUP_INPUTS) return minimum_factor_;
    if constexpr (G.group_inputs == GROUP_INPUTS) {
      return zero() - load_halves(from_ + group * 32) * load_bytes<uint8_t>(from_ + G.zeros_at() + group * 16);
    }
    return load_halves(from_ + G.minimums_at() + group * 32);
  }

 private:
  const uint8_t* from_;
  V16 factor_;
  V16 minimum_factor_;
};

}  // namespace vivace::VIVACE_ISA
