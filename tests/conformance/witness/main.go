// A witness as transparency-dev builds it, in memory, for one log: go run . KEYFILE
//
// KEYFILE holds the public key of the log, and is read when a checkpoint arrives: the log makes its key when it first starts. Prints
// the line of the witness for a policy file, and serves until it is stopped.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	f_note "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/witness/persistence/inmemory"
	"github.com/transparency-dev/witness/witness"
	"golang.org/x/mod/sumdb/note"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	ctx := context.Background()
	secret, public, err := note.GenerateKey(rand.Reader, "witness.example/conformance")
	must(err)
	signer, err := f_note.NewSignerForCosignatureV1(secret)
	must(err)
	public, err = f_note.VKeyToCosignatureV1(public)
	must(err)
	w, err := witness.New(ctx, witness.Opts{
		Persistence: inmemory.New(),
		Signers:     []note.Signer{signer},
		VerifierForLog: func(_ context.Context, origin string) (note.Verifier, bool, error) {
			key, err := os.ReadFile(os.Args[1])
			if err != nil {
				return nil, false, err
			}
			log, err := note.NewVerifier(strings.TrimSpace(string(key)))
			return log, err == nil && log.Name() == origin, err
		},
	})
	must(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	http.HandleFunc("POST /add-checkpoint", witness.NewHTTPHandler(w).AddCheckpoint)
	fmt.Printf("witness w1 %s http://%s\n", public, listener.Addr())
	must(http.Serve(listener, nil))
}
