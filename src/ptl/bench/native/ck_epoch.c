/* SPDX-License-Identifier: MIT
 *
 * Concurrency Kit's epochs: a reader makes its own barrier on entry, so a grace period is cheap.
 */
#include "section.h"
#include <ck_epoch.h>
#include <pthread.h>
#include <stdlib.h>

static ck_epoch_t epoch;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start(void)
{
    ck_epoch_init(&epoch);
}

static ck_epoch_record_t *enrol(void)
{
    pthread_once(&once, start);
    ck_epoch_record_t *record = ck_epoch_recycle(&epoch, NULL);
    if (!record) {
        record = aligned_alloc(64, (sizeof *record + 63) / 64 * 64);
        ck_epoch_register(&epoch, record, NULL);
    }
    return record;
}

uint64_t section_loop(const uint64_t *word, uint64_t count)
{
    ck_epoch_record_t *record = enrol();
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        ck_epoch_begin(record, NULL);
        sum += load_word(word);
        ck_epoch_end(record, NULL);
    }
    ck_epoch_unregister(record);
    return sum;
}

uint64_t section_until(const uint64_t *word, const uint32_t *stop)
{
    ck_epoch_record_t *record = enrol();
    uint64_t done = 0;
    while (!is_stopped(stop)) {
        ck_epoch_begin(record, NULL);
        load_word(word);
        ck_epoch_end(record, NULL);
        done++;
    }
    ck_epoch_unregister(record);
    return done;
}

void section_wait(uint64_t count)
{
    ck_epoch_record_t *record = enrol();
    for (uint64_t i = 0; i < count; i++)
        ck_epoch_synchronize(record);
    ck_epoch_unregister(record);
}
