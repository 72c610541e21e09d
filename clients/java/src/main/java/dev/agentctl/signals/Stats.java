package dev.agentctl.signals;

import java.util.Locale;

/**
 * What became of the signals so far.
 *
 * @param lastSeq batches made
 * @param ackedSeq the highest batch the server has acknowledged
 * @param pending signals that wait
 * @param dropped signals that gave way to newer ones
 * @param accepted as the server counted them
 * @param duplicates as the server counted them
 * @param rejected as the server counted them
 * @param missed as the server counted them
 * @param lostStreams streams that ended without an answered goodbye
 */
public record Stats(
        long lastSeq,
        long ackedSeq,
        int pending,
        long dropped,
        long accepted,
        long duplicates,
        long rejected,
        long missed,
        long lostStreams) {

    /** As one line of JSON, under the names all four monitors have. */
    public String toJson() {
        return String.format(
                Locale.ROOT,
                "{\"last_seq\":%d,\"acked_seq\":%d,\"pending\":%d,\"dropped\":%d,\"accepted\":%d,\"duplicates\":%d,"
                        + "\"rejected\":%d,\"missed\":%d,\"lost_streams\":%d}",
                lastSeq, ackedSeq, pending, dropped, accepted, duplicates, rejected, missed, lostStreams);
    }
}
