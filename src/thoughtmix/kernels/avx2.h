/* For processors without AVX-512: its instructions as far as the kernels use them, each by two of AVX2's. Included after
<immintrin.h>, whose types and functions it then stands for. */

#ifndef THOUGHTMIX_AVX2_H
#define THOUGHTMIX_AVX2_H

typedef struct {
    __m256 low, high;
} Floats;
typedef struct {
    __m256d low, high;
} Doubles;
typedef struct {
    __m256i low, high;
} Integers;

#define __m512 Floats
#define __m512d Doubles
#define __m512i Integers

/* Of eight places the ones of a mask, from bit `first` on. */
INLINE __m256i places(unsigned mask, int first) {
    __m256i bits = _mm256_slli_epi32(_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), first);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)mask), bits), bits);
}

#define OF_ONE(name, with) \
    INLINE Floats avx2_##name(Floats x) { return (Floats){with(x.low), with(x.high)}; }
#define OF_TWO(name, with) \
    INLINE Floats avx2_##name(Floats x, Floats y) { return (Floats){with(x.low, y.low), with(x.high, y.high)}; }
#define OF_THREE(name, with) \
    INLINE Floats avx2_##name(Floats x, Floats y, Floats z) { \
        return (Floats){with(x.low, y.low, z.low), with(x.high, y.high, z.high)}; \
    }

OF_ONE(sqrt, _mm256_sqrt_ps)
OF_TWO(add, _mm256_add_ps)
OF_TWO(sub, _mm256_sub_ps)
OF_TWO(mul, _mm256_mul_ps)
OF_TWO(div, _mm256_div_ps)
OF_TWO(max, _mm256_max_ps)
OF_TWO(min, _mm256_min_ps)
OF_TWO(unpacklo, _mm256_unpacklo_ps)
OF_TWO(unpackhi, _mm256_unpackhi_ps)
OF_THREE(fmadd, _mm256_fmadd_ps)
OF_THREE(fmsub, _mm256_fmsub_ps)
OF_THREE(fnmadd, _mm256_fnmadd_ps)

INLINE Floats avx2_set1(float x) { return (Floats){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE Floats avx2_setzero(void) { return (Floats){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE Floats avx2_loadu(const float *x) { return (Floats){_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
INLINE void avx2_storeu(float *to, Floats x) { _mm256_storeu_ps(to, x.low), _mm256_storeu_ps(to + 8, x.high); }
INLINE Floats avx2_abs(Floats x) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (Floats){_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
INLINE Floats avx2_round(Floats x) { /* to the nearest integer */
    return (Floats){_mm256_round_ps(x.low, 8), _mm256_round_ps(x.high, 8)};
}
INLINE Floats avx2_mask_mov(Floats other, unsigned mask, Floats x) {
    __m256 low = _mm256_castsi256_ps(places(mask, 0)), high = _mm256_castsi256_ps(places(mask, 8));
    return (Floats){_mm256_blendv_ps(other.low, x.low, low), _mm256_blendv_ps(other.high, x.high, high)};
}
INLINE Floats avx2_maskz_mov(unsigned mask, Floats x) {
    __m256 low = _mm256_castsi256_ps(places(mask, 0)), high = _mm256_castsi256_ps(places(mask, 8));
    return (Floats){_mm256_and_ps(x.low, low), _mm256_and_ps(x.high, high)};
}
INLINE Floats avx2_maskz_loadu(unsigned mask, const float *x) {
    if ((mask & 0xffff) == 0xffff) return avx2_loadu(x);
    return (Floats){_mm256_maskload_ps(x, places(mask, 0)), _mm256_maskload_ps(x + 8, places(mask, 8))};
}
INLINE Floats avx2_mask_loadu(Floats other, unsigned mask, const float *x) {
    return avx2_mask_mov(other, mask, avx2_maskz_loadu(mask, x));
}
INLINE void avx2_mask_storeu(float *to, unsigned mask, Floats x) {
    _mm256_maskstore_ps(to, places(mask, 0), x.low), _mm256_maskstore_ps(to + 8, places(mask, 8), x.high);
}
INLINE __m256 avx2_scaled(__m256 x, __m256 n) { /* x 2^n; 0 below 2^-127 */
    __m256i power = _mm256_cvtps_epi32(_mm256_max_ps(n, _mm256_set1_ps(-127)));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(power, _mm256_set1_epi32(127)), 23)));
}
INLINE Floats avx2_scalef(Floats x, Floats n) { return (Floats){avx2_scaled(x.low, n.low), avx2_scaled(x.high, n.high)}; }

INLINE float avx2_reduce(__m256 x, int add) { /* add: 1, greatest: 0 */
    __m128 y = _mm256_extractf128_ps(x, 1), z = _mm256_castps256_ps128(x);
    z = add ? _mm_add_ps(y, z) : _mm_max_ps(y, z);
    y = _mm_movehl_ps(z, z), z = add ? _mm_add_ps(y, z) : _mm_max_ps(y, z);
    y = _mm_shuffle_ps(z, z, 1), z = add ? _mm_add_ss(y, z) : _mm_max_ss(y, z);
    return _mm_cvtss_f32(z);
}
INLINE float avx2_reduce_add(Floats x) { return avx2_reduce(_mm256_add_ps(x.low, x.high), 1); }
INLINE float avx2_reduce_max(Floats x) { return avx2_reduce(_mm256_max_ps(x.low, x.high), 0); }
INLINE float avx2_reduce_min(Floats x) {
    return -avx2_reduce_max((Floats){_mm256_xor_ps(x.low, _mm256_set1_ps(-0.0f)), _mm256_xor_ps(x.high, _mm256_set1_ps(-0.0f))});
}

/* The first or third quarters of two vectors, or the second and fourth: what 0x88 and 0xdd ask for. */
#define avx2_quarters(x, y, which) \
    ((which) == 0x88 \
         ? (Floats){_mm256_permute2f128_ps((x).low, (x).high, 0x20), _mm256_permute2f128_ps((y).low, (y).high, 0x20)} \
         : (Floats){_mm256_permute2f128_ps((x).low, (x).high, 0x31), _mm256_permute2f128_ps((y).low, (y).high, 0x31)})

INLINE Doubles avx2_as_doubles(Floats x) { return (Doubles){_mm256_castps_pd(x.low), _mm256_castps_pd(x.high)}; }
INLINE Floats avx2_as_floats(Doubles x) { return (Floats){_mm256_castpd_ps(x.low), _mm256_castpd_ps(x.high)}; }
INLINE Doubles avx2_unpacklo_pd(Doubles x, Doubles y) {
    return (Doubles){_mm256_unpacklo_pd(x.low, y.low), _mm256_unpacklo_pd(x.high, y.high)};
}
INLINE Doubles avx2_unpackhi_pd(Doubles x, Doubles y) {
    return (Doubles){_mm256_unpackhi_pd(x.low, y.low), _mm256_unpackhi_pd(x.high, y.high)};
}
INLINE Doubles avx2_set1_pd(double x) { return (Doubles){_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
INLINE Doubles avx2_add_pd(Doubles x, Doubles y) {
    return (Doubles){_mm256_add_pd(x.low, y.low), _mm256_add_pd(x.high, y.high)};
}
INLINE Doubles avx2_fmadd_pd(Doubles x, Doubles y, Doubles z) {
    return (Doubles){_mm256_fmadd_pd(x.low, y.low, z.low), _mm256_fmadd_pd(x.high, y.high, z.high)};
}
INLINE Doubles avx2_maskz_sub_pd(unsigned mask, Doubles x, Doubles y) {
    const __m256i low = _mm256_setr_epi64x(1, 2, 4, 8), high = _mm256_setr_epi64x(16, 32, 64, 128);
    __m256i bits = _mm256_set1_epi64x(mask);
    __m256d one = _mm256_castsi256_pd(_mm256_cmpeq_epi64(_mm256_and_si256(bits, low), low));
    __m256d two = _mm256_castsi256_pd(_mm256_cmpeq_epi64(_mm256_and_si256(bits, high), high));
    return (Doubles){_mm256_and_pd(_mm256_sub_pd(x.low, y.low), one), _mm256_and_pd(_mm256_sub_pd(x.high, y.high), two)};
}
INLINE Doubles avx2_cvtps_pd(__m256 x) {
    return (Doubles){_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}
INLINE double avx2_reduce_add_pd(Doubles x) {
    double y[4];
    _mm256_storeu_pd(y, _mm256_add_pd(x.low, x.high));
    return (y[0] + y[2]) + (y[1] + y[3]);
}

INLINE Integers avx2_cvtps_epi32(Floats x) { return (Integers){_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }
INLINE __m128i avx2_cvtepi32_epi8(Integers x) { /* of numbers that fit */
    __m256i half = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xd8);
    return _mm_packs_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

#define _mm512_sqrt_ps avx2_sqrt
#define _mm512_add_ps avx2_add
#define _mm512_sub_ps avx2_sub
#define _mm512_mul_ps avx2_mul
#define _mm512_div_ps avx2_div
#define _mm512_max_ps avx2_max
#define _mm512_min_ps avx2_min
#define _mm512_unpacklo_ps avx2_unpacklo
#define _mm512_unpackhi_ps avx2_unpackhi
#define _mm512_fmadd_ps avx2_fmadd
#define _mm512_fmsub_ps avx2_fmsub
#define _mm512_fnmadd_ps avx2_fnmadd
#define _mm512_set1_ps avx2_set1
#define _mm512_setzero_ps avx2_setzero
#define _mm512_loadu_ps avx2_loadu
#define _mm512_storeu_ps avx2_storeu
#define _mm512_abs_ps avx2_abs
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps(x, nearest) avx2_round(x)
#define _mm512_mask_mov_ps avx2_mask_mov
#define _mm512_maskz_mov_ps avx2_maskz_mov
#define _mm512_maskz_loadu_ps avx2_maskz_loadu
#define _mm512_mask_loadu_ps avx2_mask_loadu
#define _mm512_mask_storeu_ps avx2_mask_storeu
#define _mm512_mask_add_ps(other, mask, x, y) avx2_mask_mov(other, mask, avx2_add(x, y))
#define _mm512_maskz_mul_ps(mask, x, y) avx2_maskz_mov(mask, avx2_mul(x, y))
#define _mm512_scalef_ps avx2_scalef
#define _mm512_reduce_add_ps avx2_reduce_add
#define _mm512_reduce_max_ps avx2_reduce_max
#define _mm512_reduce_min_ps avx2_reduce_min
#define _mm512_cvtss_f32(x) _mm256_cvtss_f32((x).low)
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask(x, y, how) \
    ((__mmask16)(_mm256_movemask_ps(_mm256_cmp_ps((x).low, (y).low, how)) | \
                 _mm256_movemask_ps(_mm256_cmp_ps((x).high, (y).high, how)) << 8))
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4 avx2_quarters
#define _mm512_cvtps_epi32 avx2_cvtps_epi32
#define _mm512_cvtepi32_epi8 avx2_cvtepi32_epi8
#define _mm512_castps_pd avx2_as_doubles
#define _mm512_castpd_ps avx2_as_floats
#define _mm512_castps512_ps256(x) ((x).low)
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps(x, one) ((x).high)
#define _mm512_unpacklo_pd avx2_unpacklo_pd
#define _mm512_unpackhi_pd avx2_unpackhi_pd
#define _mm512_set1_pd avx2_set1_pd
#define _mm512_setzero_pd() avx2_set1_pd(0)
#define _mm512_add_pd avx2_add_pd
#define _mm512_fmadd_pd avx2_fmadd_pd
#define _mm512_maskz_sub_pd avx2_maskz_sub_pd
#define _mm512_cvtps_pd avx2_cvtps_pd
#define _mm512_reduce_add_pd avx2_reduce_add_pd

#endif
