// Numbers of 16 bits: the upper half of a float.

#pragma once

#include <cstdint>
#include <cstring>

struct BFloat16 {
  uint16_t bits;
};

inline float load(float x) { return x; }

inline float load(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void store(float* to, float value) { *to = value; }

inline void store(BFloat16* to, float value) {  // rounded to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to->bits = static_cast<uint16_t>(nan ? 0x7fc0u : rounded);
}
