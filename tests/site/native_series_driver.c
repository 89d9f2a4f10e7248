/* The kernel of series under a compiler's sanitizers: many shapes, each array of exactly the size that it is said to have.
 * It includes the source, so that nothing but what is tested here is compiled otherwise than for use. */
#include "native_series.c"

#include "native_private_jobs.h"

#include <stddef.h>

static double table[PLACES];

/* Each part of the space stands alone, so that a step past its end is found: in one space it would lie in the next. */
static void apart(const struct network *n, struct job *job, int per_layer) {
    enum { PARTS = (sizeof(struct room) - offsetof(struct room, weights)) / sizeof(void *) };
    const long size = space_for(n, job->taken) - 8;
    double *space = malloc(size * sizeof *space), *parts[PARTS + 1];
    struct room r;
    lay_out(n, &r, space);
    memcpy(parts, (char *)&r + offsetof(struct room, weights), PARTS * sizeof *parts);
    parts[PARTS] = space + size;
    for (int i = 0; i < PARTS; i++) {
        const long bytes = (parts[i + 1] - parts[i]) * sizeof *space;
        parts[i] = aligned_alloc(64, bytes);
        memset(parts[i], 0, bytes);
    }
    memcpy((char *)&r + offsetof(struct room, weights), parts, PARTS * sizeof *parts);
    work_out(n, &r, per_layer, job);
    for (int i = 0; i < PARTS; i++) free(parts[i]);
    free(space);
}

static void one(const int64_t *shape, int64_t taken, int spoilt) {
    const struct network n = {shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], table};
    struct room r;
    lay_out(&n, &r, NULL);
    struct job jobs[2] = {made(r.start[ARRAYS], taken, n.fixed + n.steps * n.across, spoilt, 1e110)};
    jobs[1] = jobs[0], jobs[1].taken = taken / 2;
    double *space = calloc(space_for(&n, taken), sizeof *space);
    for (int per_layer = 0; per_layer < 2; per_layer++) {
        clipped_sums(&n, per_layer, jobs, 2, space, taken);
        apart(&n, jobs, per_layer);
    }
    free(space), let_go(jobs[0]);
}

int main(void) {
    for (long i = 0; i < PLACES; i++) table[i] = tanh((double)(i - PLACES * (2 * i >= PLACES)) / 256);
    /* Recurrent, columns without time, steps, channels, units, steps seen. */
    const int64_t shapes[][6] = {
        {1, 0, 1, 1, 1, 1}, {1, 3, 5, 2, 3, 1}, {1, 0, 7, 13, 4, 1}, {1, 1, 4, 40, 9, 1},
        {0, 0, 1, 1, 1, 1}, {0, 2, 1, 3, 4, 5}, {0, 0, 7, 13, 5, 3}, {0, 1, 8, 2, 9, 1}, {0, 5, 3, 1, 8, 7},
    };
    for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int64_t taken = 0; taken < 10; taken++)
            for (int spoilt = 0; spoilt < 4; spoilt++) one(shapes[s], taken, spoilt);
    return 0;
}
