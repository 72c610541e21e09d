// Appends to a Tessera log on a POSIX file system as many writers do, each waiting for its entry: go run . DIR WRITERS ENTRIES BYTES
// [BATCH MILLISECONDS]
//
// Without the last two it makes batches as Tessera does by itself. Prints entries per second. An entry counts once its index is known, which is when it is durable and integrated.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(at int) int {
	n, err := strconv.Atoi(os.Args[at])
	must(err)
	return n
}

func main() {
	ctx := context.Background()
	dir, writers, entries, size := os.Args[1], number(2), number(3), number(4)
	secret, _, err := note.GenerateKey(rand.Reader, "example.com/bench")
	must(err)
	signer, err := note.NewSigner(secret)
	must(err)
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	must(err)
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(time.Second)
	if len(os.Args) > 6 {
		options = options.WithBatching(uint(number(5)), time.Duration(number(6))*time.Millisecond)
	}
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, options)
	must(err)
	var next atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for range writers {
		group.Add(1)
		go func() {
			defer group.Done()
			for n := next.Add(1); n <= int64(entries); n = next.Add(1) {
				data := make([]byte, size)
				copy(data, strconv.FormatInt(n, 10))
				_, err := appender.Add(ctx, tessera.NewEntry(data))()
				must(err)
			}
		}()
	}
	group.Wait()
	fmt.Printf("%.0f\n", float64(entries)/time.Since(began).Seconds())
	must(shutdown(ctx))
}
