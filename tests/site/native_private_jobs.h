/* What the drivers of private kernels share: a job with each array of exactly its size. */
#include <stdlib.h>

#include "native_driver.h"

/* A job over one patient more than are taken; spoilt 1: rows, 2: weights that are no numbers, 3: weights `far` too large. */
static struct job made(long size, int64_t taken, int64_t columns, int spoilt, double far) {
    const long patients = taken + 1;
    float *x = malloc(patients * columns * sizeof *x), *y = malloc(patients * sizeof *y);
    double *weights = malloc(size * sizeof *weights), *sum = malloc(size * sizeof *sum), *norms = malloc(taken * sizeof *norms);
    int64_t *who = malloc(taken * sizeof *who);
    for (long i = 0; i < patients * columns; i++) x[i] = (float)(100 * uniform());
    for (long i = 0; i < patients; i++) y[i] = uniform() < 0;
    for (long i = 0; i < size; i++) weights[i] = uniform();
    for (long i = 0; i < taken; i++) who[i] = patients - 1 - i;
    if (spoilt == 1) x[0] = NAN, x[patients * columns - 1] = INFINITY;
    if (spoilt == 2) weights[0] = INFINITY, weights[size - 1] = NAN;
    if (spoilt == 3)
        for (long i = 0; i < size; i++) weights[i] *= far;
    return (struct job){x, y, who, weights, sum, norms, columns, taken, 0.5, 0};
}

static void let_go(struct job job) {
    free((void *)job.x), free((void *)job.y), free((void *)job.who), free((void *)job.weights), free(job.sum), free(job.norms);
}
