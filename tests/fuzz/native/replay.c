/* Gives each file named on the command line to the target once: for compilers without libFuzzer. Prints how many. */
#include "target.h"

int main(int count, char **paths)
{
    for (int at = 1; at < count; at++) {
        FILE *file = fopen(paths[at], "rb");
        static uint8_t bytes[1 << 20];
        uint8_t *exact;
        size_t length;
        must(file);
        length = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        exact = malloc(length ? length : 1); /* its end is where the sanitizer looks */
        for (size_t byte = 0; byte < length; byte++)
            exact[byte] = bytes[byte];
        fprintf(stderr, "%s\n", paths[at]);
        LLVMFuzzerTestOneInput(exact, length);
        free(exact);
    }
    printf("%d\n", count - 1);
    return 0;
}
