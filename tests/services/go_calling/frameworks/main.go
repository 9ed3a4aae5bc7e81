// The same service by what people serve with: `frameworks gin PORT`. With CLIENT=fasthttp it calls by that, too.
package main

import (
	"context"
	"crypto/tls"
	"log"
	"net/http"
	"os"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/labstack/echo/v4"
	"github.com/valyala/fasthttp"
	"golang.org/x/sync/errgroup"

	"go_calling/calling"
)

const inStyle = "/in/:style/:name"

func byGin(address string) error {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.Use(gin.Recovery())
	engine.GET(inStyle, func(c *gin.Context) {
		switch c.Param("style") {
		case "proxy":
			calling.Proxy().ServeHTTP(c.Writer, c.Request)
		case "timeout":
			calling.Timeout().ServeHTTP(c.Writer, c.Request)
		default:
			calling.Run(c.Request.Context(), c.Request.URL.Path)
			c.String(http.StatusOK, "done")
		}
	})
	return calling.Listen(address, engine)
}

func byChi(address string) error {
	router := chi.NewRouter()
	router.Get("/in/{style}/{name}", calling.Handle)
	router.Method(http.MethodGet, "/in/proxy/{name}", calling.Proxy())
	router.Method(http.MethodGet, "/in/timeout/{name}", calling.Timeout())
	return calling.Listen(address, router)
}

func byEcho(address string) error {
	engine := echo.New()
	engine.GET(inStyle, func(c echo.Context) error {
		calling.Run(c.Request().Context(), c.Request().URL.Path)
		return c.String(http.StatusOK, "done")
	})
	engine.GET("/in/proxy/:name", echo.WrapHandler(calling.Proxy()))
	engine.GET("/in/timeout/:name", echo.WrapHandler(calling.Timeout()))
	return calling.Listen(address, engine)
}

func byFasthttp(address string) error {
	server := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		calling.Run(ctx, string(ctx.Path()))
		ctx.SetBodyString("done")
	}}
	if certificate, key := calling.Files(); certificate != "" {
		return server.ListenAndServeTLS(address, certificate, key)
	}
	return server.ListenAndServe(address)
}

var client = fasthttp.Client{TLSConfig: &tls.Config{InsecureSkipVerify: true}}

func askByFasthttp(_ context.Context, target string, body string) {
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	request.SetRequestURI(target)
	if body != "" {
		request.Header.SetMethod(fasthttp.MethodPost)
		request.SetBodyString(body)
	}
	if err := client.Do(request, response); err != nil {
		log.Print(err)
	}
}

func group(_ context.Context, name string) {
	var all errgroup.Group
	all.SetLimit(2)
	for number := 0; number < 3; number++ {
		number := number
		all.Go(func() error {
			calling.Pause()
			calling.Out(name, number)
			return nil
		})
	}
	_ = all.Wait()
}

func main() {
	serve := map[string]func(string) error{"gin": byGin, "chi": byChi, "echo": byEcho, "fasthttp": byFasthttp}[os.Args[1]]
	if os.Getenv("CLIENT") == "fasthttp" {
		calling.Send = askByFasthttp
	}
	calling.Styles["errgroup"] = group
	calling.Start()
	log.Fatal(serve("127.0.0.1:" + os.Args[2]))
}
