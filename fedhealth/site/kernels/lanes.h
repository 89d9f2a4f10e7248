/* What the private kernels in C share: patients side by side, each in a lane of its own, and lattices.
 *
 * Every lane has the same operations in the same order, so what comes out for a patient is a function of that patient
 * and the weights alone. Compiled with -ffp-contract=off: what is rounded is what the source says, on every machine and
 * in every copy that the compiler makes of a loop. Sums of products ask for `fma` by name.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __FMA__
#include <immintrin.h>
#endif

#define LANES 4
#define INLINE static inline __attribute__((always_inline))

/* As in `site.exact_sums`. */
#define CAP 64.0
#define ONTO_LATTICE (1.5 * 4294967296.0) /* 2^(52 - BITS) */
#define WEIGHT_BITS 26
#define FARTHEST 0x1p400
#define FINEST -400

typedef double vec __attribute__((vector_size(32)));
typedef double loose __attribute__((vector_size(32), aligned(8), may_alias)); /* a vector anywhere */

struct job {
    const float *x;        /* [patients, columns] */
    const float *y;        /* [patients] */
    const int64_t *who;    /* [taken] the patients of this step */
    const double *weights; /* as torch has them, one array after the other */
    double *sum;           /* as the weights: the sum of the clipped gradients */
    double *norms;         /* [taken] of each patient's gradient before clipping; infinite where it is not finite */
    int64_t columns, taken;
    double bound;    /* of a norm; by array where `per_layer` */
    double rounding; /* what is given: as `ExactNetwork.rounding`, but for its own rounding */
};

INLINE long whole(long n, long of) { return (n + of - 1) / of * of; }

/* a b + c, one rounding a lane. A processor without the instruction, x86 before 2013, gets the same from the library, slowly. */
INLINE vec fused_each(vec a, vec b, vec c) {
#ifdef __FMA__
    return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    for (int i = 0; i < LANES; i++) c[i] = fma(a[i], b[i], c[i]);
    return c;
#endif
}

INLINE vec fused(double a, vec b, vec c) { return fused_each((vec){a, a, a, a}, b, c); }

/* The largest absolute value; of what is no number it knows nothing, but what is rounded of the array does. */
static double largest(const double *array, long n) {
    double most[2 * LANES] = {0};
    long i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES)
        for (int v = 0; v < 2 * LANES; v++) most[v] = fabs(array[i + v]) > most[v] ? fabs(array[i + v]) : most[v];
    for (; i < n; i++) most[0] = fabs(array[i]) > most[0] ? fabs(array[i]) : most[0];
    for (int v = 1; v < 2 * LANES; v++) most[0] = most[v] > most[0] ? most[v] : most[0];
    return most[0];
}

/* Added to a layer's weights and taken off again, it rounds them to the finest lattice on which no sum of products needs
 * rounding; a row of them adds up to `longest` at most. Not a number where there is none. */
static double onto_lattice_of(double longest) {
    if (!(longest < FARTHEST)) return NAN;
    int bits;
    frexp(longest, &bits);
    return ldexp(1.5, 52 + (bits > FINEST ? bits : FINEST) - WEIGHT_BITS);
}

/* Capped, and on the lattice; what is no number stays none. */
INLINE double onto_lattice(double x) {
    x = x < -CAP ? -CAP : x;
    x = x > CAP ? CAP : x;
    return (x + ONTO_LATTICE) - ONTO_LATTICE;
}
