// Conversions of lines with NEON.
#pragma once

#include <arm_neon.h>

#include "convert.h"

namespace {

template <batchnorm::Storage S>
struct StoredLine {
  static constexpr size_t kValues = 64 / batchnorm::bytes_of(S);

  template <bool Stream>
  static ALWAYS_INLINE void widen(const Stored<S>* from, float* to) {
    for (size_t i = 0; i < kValues; i += 8) widen_eight(from + i, to + i);
  }
  template <bool Stream>
  static ALWAYS_INLINE void narrow(const float* from, Stored<S>* to) {
    for (size_t i = 0; i < kValues; i += 8) narrow_eight(from + i, to + i);
  }

 private:
  static ALWAYS_INLINE void widen_eight(const Stored<S>* from, float* to) {
    using namespace batchnorm;
    if constexpr (S == kFloat32) {
      vst1q_f32(to, vld1q_f32(from));
      vst1q_f32(to + 4, vld1q_f32(from + 4));
    } else if constexpr (S == kBfloat16) {
      const uint16x8_t values = vld1q_u16(from);
      vst1q_f32(to, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(values), 16)));
      vst1q_f32(to + 4, vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(values), 16)));
    } else if constexpr (S == kFloat16) {
      const uint16x8_t values = vld1q_u16(from);
      vst1q_f32(to, vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(values))));
      vst1q_f32(to + 4, vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(values))));
    } else if constexpr (S == kUint8) {
      const uint16x8_t values = vmovl_u8(vld1_u8(from));
      vst1q_f32(to, vcvtq_f32_u32(vmovl_u16(vget_low_u16(values))));
      vst1q_f32(to + 4, vcvtq_f32_u32(vmovl_u16(vget_high_u16(values))));
    } else {
      int16x8_t values;
      if constexpr (S == kInt8)
        values = vmovl_s8(vld1_s8(from));
      else
        values = vld1q_s16(from);
      vst1q_f32(to, vcvtq_f32_s32(vmovl_s16(vget_low_s16(values))));
      vst1q_f32(to + 4, vcvtq_f32_s32(vmovl_s16(vget_high_s16(values))));
    }
  }

  static ALWAYS_INLINE void narrow_eight(const float* from, Stored<S>* to) {
    using namespace batchnorm;
    const float32x4_t first = vld1q_f32(from), second = vld1q_f32(from + 4);
    if constexpr (S == kFloat32) {
      vst1q_f32(to, first);
      vst1q_f32(to + 4, second);
    } else if constexpr (S == kBfloat16) {
      vst1q_u16(to, vcombine_u16(half(first), half(second)));
    } else if constexpr (S == kFloat16) {
      vst1q_u16(to, vcombine_u16(vreinterpret_u16_f16(vcvt_f16_f32(first)),
                                 vreinterpret_u16_f16(vcvt_f16_f32(second))));
    } else {
      // Saturate, and make 0 of NaN.
      const int16x8_t values =
          vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(first)), vqmovn_s32(vcvtnq_s32_f32(second)));
      if constexpr (S == kUint8)
        vst1_u8(to, vqmovun_s16(values));
      else if constexpr (S == kInt8)
        vst1_s8(to, vqmovn_s16(values));
      else
        vst1q_s16(to, values);
    }
  }

  static ALWAYS_INLINE uint16x4_t half(float32x4_t of) {
    const uint32x4_t bits = vreinterpretq_u32_f32(of);
    const uint16x4_t upper = vshrn_n_u32(bits, 16);
    const uint32x4_t last = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint16x4_t rounded = vaddhn_u32(bits, vaddq_u32(last, vdupq_n_u32(0x7fff)));
    const uint16x4_t ordered = vmovn_u32(vceqq_f32(of, of));
    return vbsl_u16(ordered, rounded, vorr_u16(upper, vdup_n_u16(0x40)));
  }
};

}  // namespace
