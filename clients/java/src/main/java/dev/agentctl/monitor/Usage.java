package dev.agentctl.monitor;

import java.util.OptionalDouble;

/**
 * Shares of the CPU and of the memory, 0 to 1 and more; empty: not known.
 *
 * @param cpu share of the CPU
 * @param memory share of the memory
 */
record Usage(OptionalDouble cpu, OptionalDouble memory) {
    /** Nothing is known. */
    static final Usage UNKNOWN = new Usage(OptionalDouble.empty(), OptionalDouble.empty());
}
