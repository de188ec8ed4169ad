// Tiles of float keys and values: products of scores and of weights with values.
//
// Few rows read the cache's own elements and widen them in registers; for many a tile is widened once to float32 in
// scratch. Every sum runs over one index in one order, so neither this choice nor the blocking of rows and columns
// changes a bit.
#pragma once

#include "kernels/attention_rows.h"

namespace vivace::VIVACE_ISA {

// scores[r][key] = q_r . key for NUM_ROWS rows and NUM_UNITS units of 16 keys; keys.load(unit, d) gives 16 of them.
template <int NUM_ROWS, int NUM_UNITS, class Keys>
VIVACE_INLINE void score_units(const ItemRows& rows, int64_t first, const Keys& keys, int64_t unit, float* scores) {
  const int64_t head_dim = rows.problem.cache.head_dim;
  const float* queries[NUM_ROWS];
  for (int r = 0; r < NUM_ROWS; ++r) queries[r] = rows.query(first + r);
  V16 sums[NUM_ROWS][NUM_UNITS];
  for (int r = 0; r < NUM_ROWS; ++r) {
    for (int u = 0; u < NUM_UNITS; ++u) sums[r][u] = zero();
  }
  for (int64_t d = 0; d < head_dim; ++d) {
    V16 key[NUM_UNITS];
    for (int u = 0; u < NUM_UNITS; ++u) {
      key[u] = keys.load(unit + u, d);
      keys.prefetch(unit + u, d);
    }
    for (int r = 0; r < NUM_ROWS; ++r) {
      const V16 query = splat(queries[r][d]);
      for (int u = 0; u < NUM_UNITS; ++u) sums[r][u] = multiply_add(query, key[u], sums[r][u]);
    }
  }
  for (int r = 0; r < NUM_ROWS; ++r) {
    for (int u = 0; u < NUM_UNITS; ++u) {
      store(scores + (first + r) * ATTENTION_TILE + KV_UNIT * (unit + u), sums[r][u]);
    }
  }
}

template <int NUM_ROWS, class Keys>
VIVACE_INLINE void score_tile(const ItemRows& rows, int64_t first, const Keys& keys, int64_t num_units,
                              float* scores) {
  int64_t unit = 0;
  for (; unit + BLOCK_VECTORS <= num_units; unit += BLOCK_VECTORS) {
    score_units<NUM_ROWS, BLOCK_VECTORS>(rows, first, keys, unit, scores);
  }
  for (; unit < num_units; ++unit) score_units<NUM_ROWS, 1>(rows, first, keys, unit, scores);
}

// Adds weights x values over keys [keys.begin, keys.end) to NUM_VECTORS vectors of NUM_ROWS accumulators;
// values.load(key, d) gives dimensions d .. d + 15.
template <int NUM_ROWS, int NUM_VECTORS, class Values>
VIVACE_INLINE void accumulate_vectors(float* const* accumulators, const float* weights, const Values& values, int64_t d,
                                      Visible keys) {
  V16 sums[NUM_ROWS][NUM_VECTORS];
  for (int r = 0; r < NUM_ROWS; ++r) {
    for (int v = 0; v < NUM_VECTORS; ++v) sums[r][v] = load(accumulators[r] + d + 16 * v);
  }
  for (int64_t key = keys.begin; key < keys.end; ++key) {
    V16 value[NUM_VECTORS];
    for (int v = 0; v < NUM_VECTORS; ++v) {
      value[v] = values.load(key, d + 16 * v);
      values.prefetch(key, d + 16 * v);
    }
    for (int r = 0; r < NUM_ROWS; ++r) {
      const V16 weight = splat(weights[r * ATTENTION_TILE + key]);
      for (int v = 0; v < NUM_VECTORS; ++v) sums[r][v] = multiply_add(weight, value[v], sums[r][v]);
    }
  }
  for (int r = 0; r < NUM_ROWS; ++r) {
    for (int v = 0; v < NUM_VECTORS; ++v) store(accumulators[r] + d + 16 * v, sums[r][v]);
  }
}

template <int NUM_ROWS, class Values>
VIVACE_INLINE void accumulate_tile(int64_t padded, float* const* accumulators, const float* weights,
                                   const Values& values, Visible keys) {
  int64_t d = 0;
  for (; d + 16 * BLOCK_VECTORS <= padded; d += 16 * BLOCK_VECTORS) {
    accumulate_vectors<NUM_ROWS, BLOCK_VECTORS>(accumulators, weights, values, d, keys);
  }
  for (; d < padded; d += 16) accumulate_vectors<NUM_ROWS, 1>(accumulators, weights, values, d, keys);
}

// A tile widened to keys[head_dim][64] and values[64][padded].
struct WideKeys {
  const float* keys;
  VIVACE_INLINE V16 load(int64_t unit, int64_t d) const {
    return VIVACE_ISA::load(keys + d * ATTENTION_TILE + KV_UNIT * unit);
  }
  VIVACE_INLINE void prefetch(int64_t, int64_t) const {}
};

struct WideValues {
  const float* values;
  int64_t padded;
  VIVACE_INLINE V16 load(int64_t key, int64_t d) const { return VIVACE_ISA::load(values + key * padded + d); }
  VIVACE_INLINE void prefetch(int64_t, int64_t) const {}
};

// The cache's own units of 16 tokens. Each element read asks for its like of the next tile (or, behind the last, again
// for itself).
template <class Element>
struct UnitKeys {
  const Element* units[ATTENTION_UNITS];
  const Element* next[ATTENTION_UNITS];
  int64_t block_size;

  VIVACE_INLINE V16 load(int64_t unit, int64_t d) const { return load16(units[unit] + d * block_size); }
  VIVACE_INLINE void prefetch(int64_t unit, int64_t d) const { __builtin_prefetch(next[unit] + d * block_size, 0, 2); }
};

template <class Element>
struct UnitValues {
  const Element* units[ATTENTION_UNITS];
  const Element* next[ATTENTION_UNITS];
  int64_t head_dim;

  VIVACE_INLINE V16 load(int64_t key, int64_t d) const { return load16(units[key / KV_UNIT] + offset(key, d)); }
  VIVACE_INLINE void prefetch(int64_t key, int64_t d) const {
    __builtin_prefetch(next[key / KV_UNIT] + offset(key, d), 0, 2);
  }

 private:
  VIVACE_INLINE int64_t offset(int64_t key, int64_t d) const { return key % KV_UNIT * head_dim + d; }
};

// Widens keys [0, count) of the tile. Positions past `count` were never written: their keys become 0 (the lanes are
// masked later) and their values are never read.
template <class Element>
void widen_tile(const ItemRows& rows, int64_t tile_start, int64_t count, float* keys, float* values) {
  const KVLayer& cache = rows.problem.cache;
  const int64_t head_dim = cache.head_dim, padded = padded_head_dim(head_dim), block_size = cache.block_size;
  const bool whole_vectors = block_size % KV_UNIT == 0;
  for (int64_t first = 0; first < ATTENTION_TILE; first += KV_UNIT) {
    if (first >= count) {
      for (int64_t d = 0; d < head_dim; ++d) store(keys + d * ATTENTION_TILE + first, zero());
    } else if (whole_vectors) {
      const int64_t position = tile_start + first;
      const Element* from =
          reinterpret_cast<const Element*>(cache.key_block(rows.block_at(position), rows.item.kv_head)) +
          position % block_size;
      for (int64_t d = 0; d < head_dim; ++d) store(keys + d * ATTENTION_TILE + first, load16(from + d * block_size));
    }
  }
  for (int64_t key = 0; key < count; ++key) {
    const int64_t position = tile_start + key, block = rows.block_at(position), slot = position % block_size;
    const Element* from =
        reinterpret_cast<const Element*>(cache.value_block(block, rows.item.kv_head)) + slot * head_dim;
    float* to = values + key * padded;
    int64_t d = 0;
    for (; d + 16 <= head_dim; d += 16) store(to + d, load16(from + d));
    for (; d < head_dim; ++d) to[d] = to_float(from[d]);
    if (!whole_vectors) {
      const Element* key_from =
          reinterpret_cast<const Element*>(cache.key_block(block, rows.item.kv_head)) + slot;
      for (int64_t i = 0; i < head_dim; ++i) keys[i * ATTENTION_TILE + key] = to_float(key_from[i * block_size]);
    }
  }
}

// Asks for the keys and values of the tile from `begin` on.
inline void prefetch(const ItemRows& rows, int64_t begin, int64_t end) {
  const KVLayer& cache = rows.problem.cache;
  if (cache.block_size > ATTENTION_TILE) return;
  if (end > begin + ATTENTION_TILE) end = begin + ATTENTION_TILE;
  for (int64_t position = begin; position < end; position += cache.block_size - position % cache.block_size) {
    const int64_t block = rows.block_at(position);
    const uint8_t* keys = cache.key_block(block, rows.item.kv_head);
    const uint8_t* values = cache.value_block(block, rows.item.kv_head);
    for (int64_t byte = 0; byte < cache.key_bytes; byte += 64) __builtin_prefetch(keys + byte, 0, 2);
    for (int64_t byte = 0; byte < cache.value_bytes; byte += 64) __builtin_prefetch(values + byte, 0, 2);
  }
}

template <class Element>
class DenseTile {
 public:
  DenseTile(const ItemRows& rows, float* scratch)
      : rows_(rows), keys_(scratch), values_(scratch + ATTENTION_TILE * rows.problem.cache.head_dim) {
    const KVLayer& cache = rows.problem.cache;
    const int64_t padded = padded_head_dim(cache.head_dim);
    reads_units_ = rows.count <= 2 * BLOCK_ROWS && cache.block_size % KV_UNIT == 0 && cache.head_dim == padded;
    // Values between head_dim and its padding are read (and never kept): they must be numbers.
    if (!reads_units_) std::memset(values_, 0, static_cast<size_t>(ATTENTION_TILE * padded) * sizeof(float));
  }

  // Makes a tile's keys [start, ..) before `end` readable, and asks for the next tile's.
  void begin(int64_t start, int64_t end) {
    const int64_t count = end - start < ATTENTION_TILE ? end - start : ATTENTION_TILE;
    num_units_ = (count + KV_UNIT - 1) / KV_UNIT;
    if (!reads_units_) {
      prefetch(rows_, start + ATTENTION_TILE, end);
      widen_tile<Element>(rows_, start, count, keys_, values_);
      return;
    }
    unit_keys_.block_size = rows_.problem.cache.block_size;
    unit_values_.head_dim = rows_.problem.cache.head_dim;
    for (int64_t unit = 0; unit < num_units_; ++unit) {
      const int64_t position = start + KV_UNIT * unit;
      const int64_t next = position + ATTENTION_TILE < end ? position + ATTENTION_TILE : position;
      unit_keys_.units[unit] = keys_at(position);
      unit_keys_.next[unit] = keys_at(next);
      unit_values_.units[unit] = values_at(position);
      unit_values_.next[unit] = values_at(next);
    }
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, float* scores) const {
    if (reads_units_) {
      score_tile<NUM_ROWS>(rows_, first, unit_keys_, num_units_, scores);
    } else {
      score_tile<NUM_ROWS>(rows_, first, WideKeys{keys_}, num_units_, scores);
    }
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void accumulate(int64_t, float* const* accumulators, const float* weights, const Visible*,
                                Visible any) const {
    const int64_t padded = padded_head_dim(rows_.problem.cache.head_dim);
    if (reads_units_) {
      accumulate_tile<NUM_ROWS>(padded, accumulators, weights, unit_values_, any);
    } else {
      accumulate_tile<NUM_ROWS>(padded, accumulators, weights, WideValues{values_, padded}, any);
    }
  }

 private:
  const Element* keys_at(int64_t position) const {
    const KVLayer& cache = rows_.problem.cache;
    return reinterpret_cast<const Element*>(cache.key_block(rows_.block_at(position), rows_.item.kv_head)) +
           position % cache.block_size;
  }

  const Element* values_at(int64_t position) const {
    const KVLayer& cache = rows_.problem.cache;
    return reinterpret_cast<const Element*>(cache.value_block(rows_.block_at(position), rows_.item.kv_head)) +
           position % cache.block_size * cache.head_dim;
  }

  const ItemRows& rows_;
  float* keys_;
  float* values_;
  bool reads_units_;
  int64_t num_units_ = 0;
  UnitKeys<Element> unit_keys_;
  UnitValues<Element> unit_values_;
};

}  // namespace vivace::VIVACE_ISA
