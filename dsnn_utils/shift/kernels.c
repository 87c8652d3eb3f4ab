/* Activations on their grid, and the gradient beyond its ends: one pass over the memory each.
   A bfloat16 is the upper half of a float32. */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bfloat16;

static inline float as_float(bfloat16 upper) {
    uint32_t bits = (uint32_t)upper << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Exact for what is rounded here: multiples of the step that have their digits in a bfloat16. */
static inline bfloat16 upper_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (bfloat16)(bits >> 16);
}

#define SAME(value) (value)

/* Both comparisons are false for NaN, which stays what it is. */
#define ROUND(NAME, TYPE, READ, WRITE, ROUNDED)                                                   \
    void NAME(const TYPE *restrict x, TYPE *restrict y, int64_t count, int threads, float step,   \
              float low, float high) {                                                            \
        const float per_step = 1 / step;                                                          \
        _Pragma("omp parallel for simd num_threads(threads)")                                     \
        for (int64_t i = 0; i < count; i++) {                                                     \
            float value = ROUNDED(READ(x[i]) * per_step) * step;                                  \
            value = value < low ? low : value;                                                    \
            y[i] = WRITE(value > high ? high : value);                                            \
        }                                                                                         \
    }

ROUND(floor_float32, float, SAME, SAME, floorf)
ROUND(nearest_float32, float, SAME, SAME, rintf)
ROUND(floor_bfloat16, bfloat16, as_float, upper_half, floorf)
ROUND(nearest_bfloat16, bfloat16, as_float, upper_half, rintf)

void zero_outside_bfloat16(const bfloat16 *restrict gradient, const bfloat16 *restrict x,
                           bfloat16 *restrict y, int64_t count, int threads, float low,
                           float high) {
    _Pragma("omp parallel for simd num_threads(threads)")
    for (int64_t i = 0; i < count; i++) {
        float value = as_float(x[i]);
        y[i] = (value > low) & (value < high) ? gradient[i] : 0;
    }
}
